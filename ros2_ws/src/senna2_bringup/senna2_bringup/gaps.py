"""Which steps of a simulated drive a recording lacks, topic by topic. No ROS."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from senna2_sim.rig import load_rig
from senna2_sim.world.world import STEP_NS

SHOWN = 3  # stamps per topic, in words
SIMULATOR = ("/ego/odometry", "/ego/navigation", "/sim/ground_truth")
STACK = (
    "/perception/scene_tokens",
    "/perception/objects",
    "/perception/map",
    "/planner/path",
    "/planner/consistency",
)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """From one RESET to the END, if that came."""

    facts: Mapping[str, Any]  # of the RESET: rig, mode, driver
    start_ns: int  # stamp of the first step
    end_ns: int | None = None  # stamp of the last step; None: the drive was cut short


def gaps(episode: Episode, heard: Mapping[str, Set[int]]) -> dict[str, list[int]]:
    """Steps that a topic should have a message of and has not. Of a drive that was cut, all but the last step count.

    Args:
        heard: stamps ns by topic, of this episode; topics that are not recorded are not in there.
    Returns:
        stamps ns by topic, in order; topics that are whole are left out.
    Raises:
        ValueError: the rig of the drive can no longer be read.
    """
    end_ns = episode.end_ns
    if end_ns is None:
        end_ns = max(max(heard.get(topic, ()), default=0) for topic in SIMULATOR) - STEP_NS
    steps = range(episode.start_ns, end_ns + 1, STEP_NS)
    rig, lockstep = load_rig(str(episode.facts["rig"])), episode.facts["mode"] == "lockstep"
    topics = SIMULATOR + (("/planner/trajectory",) if lockstep else ())
    topics += STACK if lockstep and episode.facts["driver"] == "senna2" else ()
    wanted = {topic: set(steps) for topic in topics}
    for stamp in steps:
        due = rig.due(stamp)
        for camera in due.cameras if due else ():
            for ending in ("compressed", "camera_info"):
                wanted.setdefault(f"/camera/{camera.name}/{ending}", set()).add(stamp)
    lacking = {topic: sorted(stamps - heard[topic]) for topic, stamps in wanted.items() if topic in heard}
    return {topic: stamps for topic, stamps in lacking.items() if stamps}


def in_words(lacking: Mapping[str, list[int]]) -> str:
    """The same, for a log: topics with the first of the stamps, s."""
    words = []
    for topic, stamps in lacking.items():
        shown = ", ".join(f"{stamp / 1e9:.1f}" for stamp in stamps[:SHOWN])
        more = f" s and {len(stamps) - SHOWN} more" if len(stamps) > SHOWN else " s"
        words.append(f"{topic} of {shown}{more}")
    return "; ".join(words)
