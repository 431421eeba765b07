"""Which steps of a simulated drive a recording lacks, topic by topic. No ROS."""

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass

from senna2_sim.rig import Rig, load_rig
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

    rig: Rig
    lockstep: bool
    learned: bool  # driven by the learned stack
    start_ns: int  # stamp of the first step
    end_ns: int | None = None  # stamp of the last step; None: the drive was cut short


def beginning(text: str, stamp_ns: int) -> Episode | None:
    """The episode that a RESET with this text announces; None where it does not say what our simulator says."""
    try:
        facts = json.loads(text)
        rig, mode, driver = load_rig(str(facts["rig"])), facts["mode"], facts["driver"]
    except (ValueError, KeyError, TypeError):
        return None
    return Episode(rig=rig, lockstep=mode == "lockstep", learned=driver == "senna2", start_ns=stamp_ns)


def gaps(episode: Episode, heard: Mapping[str, Set[int]]) -> dict[str, list[int]]:
    """Steps that a topic should have a message of and has not. Of a drive that was cut, all but the last step count.

    Args:
        heard: stamps ns by topic, of this episode; topics that are not recorded are not in there.
    Returns:
        stamps ns by topic, in order; topics that are whole are left out.
    """
    end_ns = episode.end_ns
    if end_ns is None:
        end_ns = max(max(heard.get(topic, ()), default=0) for topic in SIMULATOR) - STEP_NS
    steps = range(episode.start_ns, end_ns + 1, STEP_NS)
    topics = SIMULATOR + (("/planner/trajectory",) if episode.lockstep else ())
    topics += STACK if episode.lockstep and episode.learned else ()
    wanted = {topic: set(steps) for topic in topics}
    for stamp in steps:
        due = episode.rig.due(stamp)
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
