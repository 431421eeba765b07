"""Bag of a drive -> H.264 film: all cameras, the plan in the front image, the decision, a bird's-eye view.

python -m senna2_bringup.video runs/latest/bag film.mp4
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import tyro

from senna2_bringup.birdseye import AGREE, BACKGROUND, DISAGREE, SEEN, BirdsEye, Colour
from senna2_bringup.result import Drive, clip_id, load_drive
from senna2_core.bags import bag_topics, read_bag
from senna2_core.messages import read_image, read_objects, stamp_ns
from senna2_core.objects import Objects
from senna2_sim.rig import Camera, Rig, load_rig

WIDTH, HEIGHT, FPS = 1280, 720, 10
FRONT = (832, 468)  # px, the big picture
SMALL = (272, 153)  # px, each of the others; smaller when there are more than three
PANEL_Y = FRONT[1] + SMALL[1] + 6
TEXT: Colour = (236, 240, 245)
DIM: Colour = (140, 148, 160)
RED: Colour = (255, 96, 96)
FAR = "far from every captured view"
_FONT = cv2.FontFace("sans")


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
    rig = load_rig(str(drive.facts.get("rig", "small")))
    birdseye = BirdsEye(WIDTH - FRONT[0] - 8, HEIGHT)
    frames = 0
    with av.open(str(out), "w", options={"movflags": "faststart"}) as film:
        stream = film.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "22", "threads": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for stamp, images, seen in _steps(bag, drive, rig):
            picture = compose(drive, stamp, images, seen, rig.cameras, birdseye)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = frames, Fraction(1, FPS)
            film.mux(stream.encode(frame))
            frames += 1
        film.mux(stream.encode(None))
    if not frames:
        out.unlink(missing_ok=True)
        raise ValueError(f"{bag}: no camera frames of this drive, nothing to film")
    return out


def compose(
    drive: Drive,
    stamp: int,
    images: dict[str, np.ndarray],
    seen: Objects | None,
    cameras: tuple[Camera, ...],
    birdseye: BirdsEye,
) -> np.ndarray:
    """One picture of the film, (HEIGHT, WIDTH, 3) uint8 RGB. images by camera; seen in base_link."""
    canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    canvas[:] = BACKGROUND
    plan, check = drive.plans.get(stamp), drive.consistency.get(stamp)
    colour = DISAGREE if check is not None and not check.agree else AGREE
    first, *others = sorted((camera for camera in cameras if camera.name in images), key=_order)
    big = cv2.resize(images[first.name], FRONT, interpolation=cv2.INTER_CUBIC)
    if plan is not None:
        _draw_ribbon(big, first, plan, colour)
    canvas[: FRONT[1], : FRONT[0]] = big
    if drive.is_far(first.name, stamp):
        _write(canvas, FAR, (12, 28), 20, RED, 600)
    width = (FRONT[0] + 8) // max(len(others), 3) - 8
    size = width, width * SMALL[1] // SMALL[0]
    for column, camera in enumerate(others):
        x, y = column * (width + 8), FRONT[1] + 6
        canvas[y : y + size[1], x : x + width] = cv2.resize(images[camera.name], size, interpolation=cv2.INTER_CUBIC)
        _write(canvas, camera.name, (x + 8, y + 20), 15, TEXT)
        if drive.is_far(camera.name, stamp):
            _write(canvas, FAR, (x + 8, y + size[1] - 10), 15, RED, 600)
    _draw_birdseye(birdseye, drive, stamp, seen, colour)
    canvas[:, FRONT[0] + 8 :] = birdseye.image
    _draw_panel(canvas, drive, stamp)
    return canvas


def _order(camera: Camera) -> tuple[bool, float]:
    """The front camera first, then counter-clockwise."""
    return camera.name != "front", camera.yaw_deg % 360


def _steps(bag: Path, drive: Drive, rig: Rig) -> Iterator[tuple[int, dict[str, np.ndarray], Objects | None]]:
    """Stamp, newest images and perceived objects of every step at which the cameras that are due have frames.

    Rigs without a camera of FPS give each step as often as it takes to make a film in real time.
    """
    available = bag_topics(bag)
    names = {camera.name for camera in rig.cameras if f"/camera/{camera.name}/compressed" in available}
    topics = [f"/camera/{name}/compressed" for name in sorted(names)]
    images: dict[int, dict[str, np.ndarray]] = {}
    newest: dict[str, np.ndarray] = {}
    seen: dict[int, Objects] = {}
    waiting: list[tuple[int, dict[str, np.ndarray]]] = []
    repeats = FPS // max(camera.rate_hz for camera in rig.cameras)
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
        due = rig.due(stamp)
        if due is not None and names & {camera.name for camera in due.cameras} <= set(images[stamp]):
            newest = newest | images.pop(stamp)
            waiting.append((stamp, newest))
            if len(waiting) > 5:  # objects of a step come a little later than its frames
                step, frames = waiting.pop(0)
                yield from [(step, frames, seen.pop(step, None))] * repeats
    for step, frames in waiting:
        yield from [(step, frames, seen.pop(step, None))] * repeats


def _draw_ribbon(image: np.ndarray, camera: Camera, plan: np.ndarray, colour: Colour) -> None:
    """The plan as a translucent strip, as wide as the car, on the road ahead."""
    poses = np.concatenate([np.zeros((1, 3)), plan])
    reach = np.hypot(poses[:, 0], poses[:, 1])
    if reach[-1] < 1.0:
        return
    normal = np.stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])], axis=1)
    scale = image.shape[1] / camera.width
    sides = []
    for offset_m in (0.75, -0.75):
        points = np.column_stack([poses[:, :2] + offset_m * normal, np.zeros(len(poses))])
        pixels, depth = camera.project(points)
        sides.append((scale * pixels, depth))
    visible = (sides[0][1] > 0.8) & (sides[1][1] > 0.8)
    if visible.sum() < 2:
        return
    outline = np.concatenate([sides[0][0][visible], sides[1][0][visible][::-1]])
    pixels = np.round(outline.clip(-4000, 4000) * 16).astype(np.int32)
    layer = image.copy()
    cv2.fillPoly(layer, [pixels], colour, cv2.LINE_AA, 4)
    cv2.addWeighted(layer, 0.45, image, 0.55, 0, dst=image)
    cv2.polylines(image, [pixels], True, colour, 2, cv2.LINE_AA, 4)


def _draw_birdseye(view: BirdsEye, drive: Drive, stamp: int, seen: Objects | None, colour: Colour) -> None:
    view.clear()
    pose, plan = drive.ego[stamp].pose, drive.plans.get(stamp)
    view.map(drive.map.in_frame(pose))
    view.agents(drive.truth[stamp].agents.in_frame(pose))
    if seen is not None:
        view.seen(seen)
    if plan is not None:
        view.plan(plan, colour)
    view.ego()
    _write(view.image, clip_id(drive.facts), (14, 28), 18, TEXT)
    _write(view.image, f"driver {drive.facts.get('driver')}", (14, 50), 15, DIM)
    if seen is not None:
        _write(view.image, "blue: seen by perception", (14, HEIGHT - 14), 14, SEEN)


def _draw_panel(canvas: np.ndarray, drive: Drive, stamp: int) -> None:
    ego, truth = drive.ego[stamp], drive.truth[stamp]
    navigation, check = drive.navigation.get(stamp), drive.consistency.get(stamp)
    y = PANEL_Y
    _write(canvas, f"{3.6 * abs(ego.speed_mps):.0f}", (12, y + 56), 54, TEXT, 700)
    limit = f"limit {3.6 * navigation.speed_limit_mps:.0f}" if navigation else ""
    _write(canvas, "km/h", (92, y + 36), 18, DIM)
    _write(canvas, limit, (92, y + 58), 18, DIM)
    if check is not None:
        _write(canvas, check.decision.text, (196, y + 40), 30, TEXT, 700)
        verdict = "plan agrees" if check.agree else "plan disagrees"
        _write(canvas, verdict, (196, y + 68), 18, AGREE if check.agree else DISAGREE, 600)
        _write(canvas, f"decision {1e3 * check.decision_age_s:.0f} ms old", (336, y + 68), 18, DIM)
    elif (driver := drive.facts.get("driver")) != "senna2":
        _write(canvas, f"{driver}: no decision", (196, y + 40), 26, DIM)
    if navigation:
        _write(canvas, navigation.text, (12, y + 88), 18, DIM)
    _write(canvas, f"{drive.seconds(stamp):.1f} s", (720, y + 36), 26, TEXT, 600)
    ttc = f"TTC {truth.ttc_s:.1f} s" if truth.ttc_s < 5 else "TTC > 5 s"
    _write(canvas, ttc, (720, y + 66), 18, RED if truth.ttc_s < 2 else DIM, 600)
    if truth.collided:
        _write(canvas, "COLLISION" + (" (at fault)" if truth.at_fault else ""), (560, y + 90), 20, RED, 800)


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: int, colour: Colour, weight: int = 400) -> None:
    cv2.putText(image, text, at, colour, _FONT, size, weight)


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
