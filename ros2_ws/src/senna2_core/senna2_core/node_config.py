"""Run-time knobs that all nodes share. No ROS here."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["lockstep", "realtime"]


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Base of every node's config; each field is a ROS parameter."""

    mode: Mode = "realtime"  # lockstep: wait for every input, lose nothing; realtime: the newest input wins
