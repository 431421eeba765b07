"""Run-time knobs of the simulator node."""

from dataclasses import dataclass
from typing import Literal

from senna2_core.node_config import Mode, NodeConfig


@dataclass(frozen=True, kw_only=True)
class SimNodeConfig(NodeConfig):
    """Each field is a ROS parameter."""

    clip: str = "follow_stop"  # family
    seed: int = 7
    scene: str = ""  # instead of a clip: a file of Gaussians or a scene file, see scene_file.py
    mode: Mode = "lockstep"
    driver: Literal["senna2", "expert", "constant_velocity"] = "senna2"  # the latter two plan inside the simulator
    rig: str = "small"
    device: str = "auto"  # cpu; cuda or auto: gsplat draws where it works, else the CPU
    effects: str = "none"  # what the cameras add: none, mild, harsh, or path of a .json
    max_duration_s: float = 0.0  # ends clips early; 0: as long as the clip
    exit_at_end: bool = False
    wait_for_nodes: tuple[str, ...] = ()  # nodes that must listen to ego/odometry before the first step
    start_timeout_s: float = 60.0  # until the first plan of an episode
    step_timeout_s: float = 5.0  # until any later plan

    def __post_init__(self) -> None:
        if self.start_timeout_s <= 0 or self.step_timeout_s <= 0 or self.max_duration_s < 0 or self.seed < 0:
            raise ValueError(f"{self}: wanted time-outs > 0, seed and max_duration_s >= 0")

    @property
    def facts(self) -> dict[str, str]:
        """What a reader of a recording needs to know of these knobs."""
        return {"driver": self.driver, "mode": self.mode, "rig": self.rig, "effects": self.effects}
