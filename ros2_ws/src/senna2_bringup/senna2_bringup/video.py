"""Bag of a drive -> H.264 film: all cameras, the plan in the front image, the decision, a bird's-eye view.

python -m senna2_bringup.video runs/latest/bag film.mp4
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from senna2_bringup.result import Drive, clip_id, load_drive
from senna2_core.bags import bag_topics, read_bag
from senna2_core.messages import read_image, read_objects, stamp_ns
from senna2_core.objects import Objects
from senna2_sim.film import FPS, Moment, compose, film, new_birdseye
from senna2_sim.rig import Rig, load_rig

HELD_STEPS = 5  # objects of a step come a little later than its frames, and so may the frames of one camera


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
    rig, canvas, forced = load_rig(str(drive.facts.get("rig", "small"))), new_birdseye(), frozenset(drive.forced)
    with film(out) as add:
        for stamp, images, seen in _steps(bag, drive, rig):
            add(compose(moment(drive, stamp, seen, rig, forced), images, rig.cameras, canvas))
    if not out.exists():
        raise ValueError(f"{bag}: no camera frames of this drive, nothing to film")
    return out


def moment(drive: Drive, stamp: int, seen: Objects | None, rig: Rig, forced: frozenset[int] = frozenset()) -> Moment:
    """What the film tells about one step. seen in base_link; forced: stamps of the ticks of forced decisions."""
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
        forced=stamp in forced,
        seen=seen,
        far=frozenset(camera.name for camera in rig.cameras if drive.is_far(camera.name, stamp)),
    )


def _steps(bag: Path, drive: Drive, rig: Rig) -> Iterator[tuple[int, dict[str, np.ndarray], Objects | None]]:
    """Stamp, newest images and perceived objects of every step at which the cameras that are due have frames.

    Rigs without a camera of FPS give each step as often as it takes to make a film in real time.
    """
    seen: dict[int, Objects] = {}
    newest: dict[str, np.ndarray] = {}
    repeats = FPS // max(camera.rate_hz for camera in rig.cameras)
    for stamp, images in _in_order(_whole(bag, drive, rig, seen)):
        newest = newest | images
        yield from [(stamp, newest, seen.pop(stamp, None))] * repeats


def _whole(bag: Path, drive: Drive, rig: Rig, seen: dict[int, Objects]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Stamp and images of each step, as soon as all that are due have come; objects on the way go into `seen`."""
    available = bag_topics(bag)
    names = {camera.name for camera in rig.cameras if f"/camera/{camera.name}/compressed" in available}
    topics = [f"/camera/{name}/compressed" for name in sorted(names)]
    if not topics:
        return
    extra = [topic for topic in ("/perception/objects",) if topic in available]
    images: dict[int, dict[str, np.ndarray]] = {}
    for topic, _, msg in read_bag(bag, topics + extra):
        stamp = stamp_ns(msg.header)
        if stamp not in drive.truth or stamp not in drive.ego:
            continue
        if topic in extra:
            seen[stamp] = read_objects(msg)
            continue
        images.setdefault(stamp, {})[topic.split("/")[2]] = read_image(msg)
        due = rig.due(stamp)
        if due is not None and names & {camera.name for camera in due.cameras} <= set(images[stamp]):
            yield stamp, images.pop(stamp)


def _in_order(steps: Iterable[tuple[int, dict[str, np.ndarray]]]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """By stamp and each once, though cameras are recorded in the order of arrival; a few steps are held back for it."""
    held: dict[int, dict[str, np.ndarray]] = {}
    last = -1
    for stamp, images in steps:
        if stamp > last:
            held[stamp] = images
        if len(held) > HELD_STEPS:
            last = min(held)
            yield last, held.pop(last)
    yield from sorted(held.items(), key=lambda item: item[0])


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
