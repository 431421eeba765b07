"""What a replay of the committed bag must yield: the learned stack without ROS, over the same frames.

python -m scripts.replay_reference            # after new weights: writes test/data/replay.json of senna2_bringup
python -m scripts.replay_reference --record   # also drives the clip again and cuts the bag anew
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro

from senna2_bringup.replay_bag import ReplayBag, cameras_of, input_topics, load_replay_bag
from senna2_bringup.replay_result import score
from senna2_core.bags import BagWriter, blank, read_bag
from senna2_core.messages import read_image, read_navigation, set_array, stamp_ns
from training.driver import Driver
from training.record import Job, record

DATA = Path(__file__).resolve().parents[1] / "ros2_ws/src/senna2_bringup/test/data"
FAMILY, SEED = "follow_stop", 900
BAG, REFERENCE = DATA / f"{FAMILY}-{SEED:04d}", DATA / "replay.json"
FIRST, STEPS = 3, 61  # accelerates, keeps, decelerates; begins in the middle of a period of the VLM
JPEG_QUALITY = 85  # instead of 95: keeps the bag at about a megabyte
KEPT_POINTS = (9, 19, 39)  # of each plan: at 1, 2 and 4 s


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write the reference of the replay test."""

    models: Path = Path("models/small-s1")
    """Folder with the checkpoints."""
    record: bool = False
    """Drive the clip and cut the bag again, too."""


def cut(source: Path, target: Path) -> None:
    """Steps FIRST to FIRST + STEPS of a recorded bag, with smaller images."""
    with BagWriter(target) as writer:
        stamps: list[int] = []
        for topic, stamp, msg in read_bag(source):
            if topic == "/ego/odometry":
                stamps.append(stamp)
            kept = FIRST < len(stamps) <= FIRST + STEPS
            if topic == "/sim/map":
                first_ns = stamp + FIRST * 100_000_000
                writer.write(topic, msg, msg.__msgtype__, first_ns)
            elif kept:
                if topic.endswith("/compressed"):
                    bgr = cv2.cvtColor(read_image(msg), cv2.COLOR_RGB2BGR)
                    fresh = blank(msg.__msgtype__)
                    fresh.header, fresh.format = msg.header, msg.format
                    set_array(fresh, "data", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])
                    msg = fresh
                writer.write(topic, msg, msg.__msgtype__, stamp)


def drive(bag: ReplayBag, models: Path) -> tuple[dict[int, np.ndarray], dict[int, tuple[int, int]]]:
    """Plans (40, 3) and codes of the decisions behind them, by stamp, of the stack in one process without ROS."""
    driver = Driver.from_checkpoints(models)
    sets: dict[int, dict[str, Any]] = {}
    for topic, _, msg in read_bag(bag.path, input_topics(bag.cameras)):
        sets.setdefault(stamp_ns(msg.header), {})[topic] = msg
    plans, decisions = {}, {}
    for stamp in bag.steps:
        images = {name: read_image(sets[stamp][f"/camera/{name}/compressed"]) for name in bag.cameras}
        out = driver.drive(images, bag.ego[stamp], read_navigation(sets[stamp]["/ego/navigation"]))
        plans[stamp] = out.trajectory
        if out.condition is not None:
            decision = out.condition.decision
            decisions[stamp] = int(decision.speed), int(decision.direction)
    return plans, decisions


def reference(models: Path) -> dict[str, Any]:
    """Figures, and of each step a few points of the plan, in JSON's types."""
    bag = load_replay_bag(BAG, cameras_of(models))
    plans, decisions = drive(bag, models)
    steps = [
        {"stamp_ns": s, "decision": list(decisions[s]), "plan": np.round(plans[s][list(KEPT_POINTS)], 4).tolist()}
        for s in bag.steps
    ]
    return {"figures": score(bag, plans, decisions), "steps": json.loads(json.dumps(steps, default=float))}


def main(args: Args) -> None:
    """Write BAG, if asked to, and REFERENCE."""
    if args.record:
        with tempfile.TemporaryDirectory() as folder:
            record(Job(family=FAMILY, seed=SEED, disturbance={}, rig="small"), Path(folder))
            shutil.rmtree(BAG, ignore_errors=True)
            BAG.parent.mkdir(parents=True, exist_ok=True)
            cut(Path(folder) / BAG.name, BAG)
    found = reference(args.models)
    lines = ",\n".join(f"  {json.dumps(step)}" for step in found["steps"])
    REFERENCE.write_text(f'{{"figures": {json.dumps(found["figures"], indent=1)},\n"steps": [\n{lines}\n]}}\n')
    print(f"{BAG}\n{REFERENCE}\n{json.dumps(found['figures'], indent=1)}")


if __name__ == "__main__":
    main(tyro.cli(Args))
