"""Film of a drive: all cameras, the plan in the front image, the decision, a bird's-eye view. H.264, real time."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from senna2_core.actions import UNKNOWN, SpeedAction, words
from senna2_core.messages import Consistency
from senna2_core.objects import EgoState, MapElements, Navigation, Objects
from senna2_sim.birdseye import AGREE, BACKGROUND, DISAGREE, SEEN, BirdsEye, Colour
from senna2_sim.rig import Camera

WIDTH, HEIGHT, FPS = 1280, 720, 10
FRONT = (832, 468)  # px, the big picture
GAP = 8  # px, between pictures
SMALL_ROW = 3  # so many of the others fit below the big picture; more are drawn smaller
PANEL_Y = FRONT[1] + 153 + 6
TEXT: Colour = (236, 240, 245)
DIM: Colour = (140, 148, 160)
RED: Colour = (255, 96, 96)
FORCED: Colour = (255, 200, 90)
FAR = "far from every captured view"
_FONT = cv2.FontFace("sans")


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """What one picture tells besides the camera images; frame map unless it says otherwise."""

    clip: str
    driver: str
    time_s: float
    ego: EgoState
    map: MapElements
    agents: Objects
    ttc_s: float
    collided: bool
    at_fault: bool
    plan: np.ndarray | None = None  # (40, 3) in base_link
    navigation: Navigation | None = None
    check: Consistency | None = None  # None: the driver decides nothing
    forced: bool = False  # an operator forced the decision
    seen: Objects | None = None  # by perception, in base_link
    far: frozenset[str] = frozenset()  # cameras that are far from every view that a scene was captured from


@contextmanager
def film(out: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Iterator[Callable[[np.ndarray], None]]:
    """`with film(out) as add:` - add encodes a picture (height, width, 3) uint8 RGB, FPS a second. None: no file.

    size: width and height, even numbers.
    """
    frames = 0
    with av.open(str(out), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "22", "threads": "2"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"

        def add(picture: np.ndarray) -> None:
            nonlocal frames
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = frames, Fraction(1, FPS)
            container.mux(stream.encode(frame))
            frames += 1

        yield add
        container.mux(stream.encode(None))
    if not frames:
        out.unlink(missing_ok=True)


def compose(
    moment: Moment, images: Mapping[str, np.ndarray], cameras: tuple[Camera, ...], birdseye: BirdsEye | None = None
) -> np.ndarray:
    """One picture of the film, (HEIGHT, WIDTH, 3) uint8 RGB.

    Args:
        images: by camera, all sizes; the camera "front", or else the rig's first, becomes the big picture.
        birdseye: a canvas of `new_birdseye` to draw on again.
    """
    canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    canvas[:] = BACKGROUND
    colour = DISAGREE if moment.check is not None and not moment.check.agree else AGREE
    first, *others = sorted((camera for camera in cameras if camera.name in images), key=_order)
    big = cv2.resize(images[first.name], FRONT, interpolation=cv2.INTER_CUBIC)
    if moment.plan is not None:
        _draw_ribbon(big, first, moment.plan, colour)
    canvas[: FRONT[1], : FRONT[0]] = big
    if first.name in moment.far:
        _write(canvas, FAR, (12, 28), 20, RED, 600)
    width = (FRONT[0] + GAP) // max(len(others), SMALL_ROW) - GAP
    size = width, width * FRONT[1] // FRONT[0]
    for column, camera in enumerate(others):
        x, y = column * (width + GAP), FRONT[1] + 6
        canvas[y : y + size[1], x : x + width] = cv2.resize(images[camera.name], size, interpolation=cv2.INTER_CUBIC)
        _write(canvas, camera.name, (x + 8, y + 20), 15, TEXT)
        if camera.name in moment.far:
            _write(canvas, FAR, (x + 8, y + size[1] - 10), 15, RED, 600)
    view = birdseye or new_birdseye()
    _draw_birdseye(view, moment, colour)
    canvas[:, FRONT[0] + GAP :] = view.image
    _draw_panel(canvas, moment)
    return canvas


def new_birdseye() -> BirdsEye:
    """The canvas that `compose` draws the bird's-eye view on."""
    return BirdsEye(WIDTH - FRONT[0] - GAP, HEIGHT)


def _order(camera: Camera) -> tuple[bool, float]:
    """The front camera first, then counter-clockwise."""
    ahead = camera.base_from_camera[:2, 2]
    return camera.name != "front", float(np.arctan2(ahead[1], ahead[0]) % (2 * np.pi))


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


def _draw_birdseye(view: BirdsEye, moment: Moment, colour: Colour) -> None:
    view.clear()
    pose = moment.ego.pose
    view.map(moment.map.in_frame(pose))
    view.agents(moment.agents.in_frame(pose))
    if moment.seen is not None:
        view.seen(moment.seen)
    if moment.plan is not None:
        view.plan(moment.plan, colour)
    view.ego()
    _write(view.image, moment.clip, (14, 28), 18, TEXT)
    _write(view.image, f"driver {moment.driver}", (14, 50), 15, DIM)
    if moment.seen is not None:
        _write(view.image, "blue: seen by perception", (14, HEIGHT - 14), 14, SEEN)


def _draw_panel(canvas: np.ndarray, moment: Moment) -> None:
    navigation, check = moment.navigation, moment.check
    y = PANEL_Y
    _write(canvas, f"{3.6 * abs(moment.ego.speed_mps):.0f}", (12, y + 56), 54, TEXT, 700)
    limit = f"limit {3.6 * navigation.speed_limit_mps:.0f}" if navigation else ""
    _write(canvas, "km/h", (92, y + 36), 18, DIM)
    _write(canvas, limit, (92, y + 58), 18, DIM)
    if check is not None:
        _write(canvas, check.decision.text, (196, y + 40), 30, TEXT, 700)
        speed = "unclear" if check.speed == UNKNOWN else words(SpeedAction(check.speed))
        verdict = f"plan {speed}, {words(check.path)}: {'agrees' if check.agree else 'disagrees'}"
        _write(canvas, verdict, (196, y + 68), 18, AGREE if check.agree else DISAGREE, 600)
        how, colour = ("forced", FORCED) if moment.forced else ("decided", DIM)
        _write(canvas, f"{how} {1e3 * check.decision_age_s:.0f} ms ago", (532, y + 68), 18, colour)
    elif moment.driver != "senna2":
        _write(canvas, f"{moment.driver}: no decision", (196, y + 40), 26, DIM)
    if navigation:
        _write(canvas, navigation.text, (12, y + 88), 18, DIM)
    _write(canvas, f"{moment.time_s:.1f} s", (720, y + 36), 26, TEXT, 600)
    ttc = f"TTC {moment.ttc_s:.1f} s" if moment.ttc_s < 5 else "TTC > 5 s"
    _write(canvas, ttc, (720, y + 66), 18, RED if moment.ttc_s < 2 else DIM, 600)
    if moment.collided:
        _write(canvas, "COLLISION" + (" (at fault)" if moment.at_fault else ""), (560, y + 90), 20, RED, 800)


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: int, colour: Colour, weight: int = 400) -> None:
    cv2.putText(image, text, at, colour, _FONT, size, weight)
