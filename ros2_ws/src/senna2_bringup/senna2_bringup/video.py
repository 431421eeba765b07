"""Bag of a drive -> H.264 film: all cameras, the plan in the front image, the decision, a bird's-eye view.

python -m senna2_bringup.video runs/latest/bag film.mp4
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from senna2_bringup.result import Drive, clip_id, load_drive
from senna2_core.bags import bag_topics, read_bag
from senna2_core.messages import read_image, read_objects, stamp_ns
from senna2_core.objects import Objects
from senna2_sim.film import Moment, compose, film, new_birdseye
from senna2_sim.rig import load_rig


@dataclass(frozen=True, kw_only=True)
class Args:
    """Film of a recorded drive."""

    bag: tyro.conf.Positional[Path]
    """Bag folder."""
    out: tyro.conf.Positional[Path] = Path("video.mp4")
    """File to write."""


def write_video(bag: Path, drive: Drive, out: Path) -> Path:
    """Film of the drive in its bag, in real time, 10 frames a second. Returns out.

    Raises:
        ValueError: the bag holds no camera frames of this drive.
    """
    cameras, canvas = load_rig(str(drive.facts.get("rig", "small"))).cameras, new_birdseye()
    with film(out) as add:
        for stamp, images, seen in _steps(bag, drive):
            add(compose(moment(drive, stamp, seen), images, cameras, canvas))
    if not out.exists():
        raise ValueError(f"{bag}: no camera frames of this drive, nothing to film")
    return out


def moment(drive: Drive, stamp: int, seen: Objects | None) -> Moment:
    """What the film tells about one step. seen in base_link."""
    truth = drive.truth[stamp]
    return Moment(
        clip=clip_id(drive.facts),
        driver=str(drive.facts.get("driver")),
        time_s=drive.seconds(stamp),
        ego=drive.ego[stamp],
        map=drive.map,
        agents=truth.agents,
        ttc_s=truth.ttc_s,
        collided=truth.collided,
        at_fault=truth.at_fault,
        plan=drive.plans.get(stamp),
        navigation=drive.navigation.get(stamp),
        check=drive.consistency.get(stamp),
        seen=seen,
    )


def _steps(bag: Path, drive: Drive) -> Iterator[tuple[int, dict[str, np.ndarray], Objects | None]]:
    """Stamp, images and perceived objects of every step whose camera frames are all there."""
    available = bag_topics(bag)
    topics = [topic for topic in available if topic.startswith("/camera/") and topic.endswith("/compressed")]
    images: dict[int, dict[str, np.ndarray]] = {}
    seen: dict[int, Objects] = {}
    waiting: list[int] = []
    if not topics:
        return
    extra = [topic for topic in ("/perception/objects",) if topic in available]
    for topic, _, msg in read_bag(bag, topics + extra):
        stamp = stamp_ns(msg.header)
        if stamp not in drive.truth:
            continue
        if topic in extra:
            seen[stamp] = read_objects(msg)
            continue
        images.setdefault(stamp, {})[topic.split("/")[2]] = read_image(msg)
        if len(images[stamp]) == len(topics):
            waiting.append(stamp)
            if len(waiting) > 5:  # objects of a step come a little later than its frames
                step = waiting.pop(0)
                yield step, images.pop(step), seen.pop(step, None)
    for step in waiting:
        yield step, images.pop(step), seen.pop(step, None)


def main(args: Args) -> int:
    """The exit code for `sys.exit`."""
    try:
        write_video(args.bag, load_drive(args.bag), args.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
