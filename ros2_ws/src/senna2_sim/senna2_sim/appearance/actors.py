"""Road users as clouds in their own frame: x forward, y left, z up, origin on the ground under the box centre."""

import numpy as np

from senna2_core.objects import Category
from senna2_sim.appearance import palette
from senna2_sim.appearance.sketch import Light, Sketch
from senna2_sim.gaussians import Gaussians
from senna2_sim.world.types import AgentSpec

SOFT_EDGE = np.array([0.98, 0.95, 0.96])  # drawn size over box: splats fade out beyond their cells
TYRE = np.array([0.07, 0.07, 0.08])
DARK = np.array([0.12, 0.12, 0.13])
TAIL = np.array([0.58, 0.03, 0.04])
BRAKE = np.array([1.0, 0.12, 0.06])
AMBER = np.array([1.0, 0.62, 0.05])
WHITE = np.array([0.93, 0.93, 0.92])
CONE_M = 0.6  # obstacles smaller than this across are cones
SKIN = np.array([0.80, 0.60, 0.48])


def draw_actor(
    spec: AgentSpec, light: Light, headlights: bool, rng: np.random.Generator
) -> tuple[Gaussians, Gaussians]:
    """The cloud of an agent and the cloud of its lit brake lamps (empty for who has none)."""
    ambient, direct = np.array(light.ambient), np.array(light.direct)  # its sun stands in the zenith: actors turn
    soft = Light(ambient=tuple(ambient + 0.35 * direct), direct=tuple(0.3 * direct), towards=(0.0, 0.0, 1.0))
    body, lamps = Sketch(soft, rng, noise=0.02), Sketch(soft, rng)
    size = np.array([spec.length_m, spec.width_m, spec.height_m]) * SOFT_EDGE
    paint = np.array(spec.colour_rgb)
    _shadow(body, size)
    match spec.category:
        case Category.CAR:
            _car(body, lamps, size, paint, headlights)
        case Category.VAN:
            _van(body, lamps, size, paint, headlights)
        case Category.TRUCK:
            _truck(body, lamps, size, paint, headlights)
        case Category.BUS:
            _bus(body, lamps, size, paint, headlights)
        case Category.CYCLIST:
            _cyclist(body, size, paint)
        case Category.PEDESTRIAN:
            _person(body, size, paint, rng)
        case _:
            _obstacle(body, size, paint)
    return body.cloud(), lamps.cloud()


def draw_indicators(spec: AgentSpec, light: Light) -> tuple[Gaussians, Gaussians]:
    """The clouds of a vehicle's lit left and right indicators, in front, behind and, if it is tall, high up, too."""
    length, width, height = np.array([spec.length_m, spec.width_m, spec.height_m]) * SOFT_EDGE
    heights = (0.8, 0.8 * height) if height > 2.5 else (0.45 * height,)
    sides = []
    for side in (1, -1):
        lamps = Sketch(light, np.random.default_rng(0))
        for end in (1, -1):
            for z in heights:
                spot = np.array([end * (length / 2 + 0.08), side * (width / 2 - 0.14), z])
                _lamp(lamps, end, spot, 0.12, 0.12, AMBER)
                _lamp(lamps, end, spot + [0.1 * end, 0, 0], 0.3, 0.3, AMBER, opacity=0.45)
        sides.append(lamps.cloud())
    return sides[0], sides[1]


def _shadow(sketch: Sketch, size: np.ndarray) -> None:
    """Contact shadow, raised a little so that it is blended before the asphalt."""
    length, width = size[:2]
    corners = [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]] * np.array([length / 2, width / 2 + 0.1, 0]) + [
        0,
        0,
        0.1,
    ]
    sketch.patch(corners, 0.7, palette.ASPHALT * 0.22, opacity=0.8, overlap=0.6)


def _profile(sketch: Sketch, points, width: float, colours, cell: float = 0.3) -> None:
    """Surfaces across the width between successive (x, z) points, from the front bottom over the top to the rear."""
    for (x0, z0, w0), (x1, z1, w1), colour in zip(points[:-1], points[1:], colours, strict=True):
        a, b = [x0, width * w0 / 2, z0], [x0, -width * w0 / 2, z0]
        c, d = [x1, -width * w1 / 2, z1], [x1, width * w1 / 2, z1]
        steps = max(1, round(float(np.hypot(x1 - x0, z1 - z0)) / cell))
        sketch.patch(np.array([b, a, d, c]), (6, steps), colour)


def _sides(sketch: Sketch, x0: float, x1: float, z0: float, z1: float, width: float, cells, colour, **options) -> None:
    """The same upright rectangle on the left and on the right; colour (3,) or per cell from the rear forward."""
    top = options.pop("top", (x0, x1))
    inset = options.pop("inset", 0.0)
    low, high = width / 2, width / 2 - inset
    left = np.array([[x1, low, z0], [x0, low, z0], [top[0], high, z1], [top[1], high, z1]])
    right = np.array([[x0, -low, z0], [x1, -low, z0], [top[1], -high, z1], [top[0], -high, z1]])
    colour = np.asarray(colour, dtype=float)
    sketch.patch(right, cells, colour, **options)
    sketch.patch(left, cells, colour[:, ::-1] if colour.ndim == 3 else colour, **options)


def _wheels(sketch: Sketch, xs, width: float, radius: float) -> None:
    """Tyres with light hubs, just outside the body."""
    for x in xs:
        for side in (-1, 1):
            centre = np.array([x, side * (width / 2 + 0.015), radius])
            normal = (0.0, float(side), 0.0)
            ring = radius * 0.55 * np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1]])
            sketch.splats(centre + ring, (1.0, 0, 0), normal, np.array([0.33, 0.33, 0.05]) * radius, TYRE)
            hub = centre + [0, side * 0.03, 0]
            sketch.splats(hub, (1.0, 0, 0), normal, np.array([0.25, 0.25, 0.05]) * radius, palette.METAL)


def _lamp(sketch: Sketch, facing: int, centres, wide: float, high: float, colour, opacity: float = 0.98) -> None:
    """Lamps that face forward (1) or back (-1)."""
    sigmas = np.array([wide, high, 0.03])
    sketch.splats(centres, (0, 1.0, 0), (float(facing), 0, 0), sigmas, colour, opacity=opacity, glow=True)


def _ends(
    sketch: Sketch, lamps: Sketch, size, z: float, head: bool, *, low: float = 0.42, high_lamp: float | None
) -> None:
    """Head lamps, grille and plate in front; tail lamps and plate behind; brake lamps go to `lamps`."""
    length, width, height = size
    front, rear = length / 2 + 0.02, -length / 2 - 0.02
    white = np.array([1.0, 0.97, 0.88]) if head else np.array([0.88, 0.90, 0.92])
    pair = np.array([[0, -0.08, 0], [0, 0.08, 0]])
    for y in (0.27 - width / 2, width / 2 - 0.27):
        _lamp(sketch, 1, [front, y, z] + pair, 0.1, 0.085, white)
        _lamp(sketch, -1, [rear, y, z], 0.2, 0.13, DARK)
        _lamp(sketch, -1, [rear - 0.03, y, z] + pair, 0.1, 0.09, TAIL)
        if head:
            _lamp(sketch, 1, [front + 0.1, y, z], 0.3, 0.3, white, opacity=0.35)
            _lamp(sketch, -1, [rear - 0.05, y, z], 0.12, 0.1, TAIL * 1.6)
        _lamp(lamps, -1, [rear - 0.06, y, z] + pair, 0.13, 0.11, BRAKE)
        _lamp(lamps, -1, [rear - 0.15, y, z], 0.34, 0.26, BRAKE, opacity=0.4)
    if high_lamp is not None:
        _lamp(lamps, -1, [rear + high_lamp, 0, height - 0.12], 0.22, 0.05, BRAKE)
    sketch.patch(_across(front, width * 0.5, low, low + 0.25, 1), (4, 1), DARK)
    sketch.patch(_across(front + 0.02, 0.5, low - 0.12, low, 1), (2, 1), np.array([0.8, 0.8, 0.76]))
    sketch.patch(_across(rear, 0.52, low + 0.05, low + 0.2, -1), (2, 1), np.array([0.85, 0.85, 0.8]))
    sketch.patch(_across(rear, width * 0.9, low - 0.16, low, -1), (4, 1), DARK)


def _across(x: float, width: float, z0: float, z1: float, facing: int) -> np.ndarray:
    """Upright rectangle across the vehicle at x, facing forward (1) or back (-1)."""
    y = facing * width / 2
    return np.array([[x, -y, z0], [x, y, z0], [x, y, z1], [x, -y, z1]])


def _lying(length: float, width: float, z: float) -> np.ndarray:
    """Horizontal rectangle at height z, facing up."""
    return np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * [length / 2, width / 2, 0] + [0, 0, z]


def _core(sketch: Sketch, size: np.ndarray, paint: np.ndarray, low: float, share: float = 0.55) -> None:
    """Filling, so that nothing shines through between the panels."""
    length, width, height = size
    count = max(2, round(length / 1.1))
    xs = (np.arange(count) + 0.5) / count * length * 0.84 - length * 0.42
    tall = height * share
    centres = np.column_stack([xs, np.zeros(count), np.full(count, low + tall / 2)])
    sketch.blobs(centres, np.array([length / count * 0.42, width * 0.27, tall * 0.34]), 0.7 * paint)


def _car(sketch: Sketch, lamps: Sketch, size, paint, head: bool) -> None:
    length, width, height = size
    h, w, belt = length / 2, width, 0.60 * height
    glass = palette.GLASS
    _core(sketch, size, paint, 0.3)
    points = [
        (h, 0.22, 0.94), (h, 0.50 * height, 0.94), (0.47 * length, 0.55 * height, 0.92),
        (0.20 * length, 0.64 * height, 0.90), (0.06 * length, 0.97 * height, 0.72), (-0.02 * length, height, 0.70),
        (-0.24 * length, 0.97 * height, 0.70), (-0.38 * length, 0.66 * height, 0.86), (-h, 0.60 * height, 0.90),
        (-h, 0.22, 0.92),
    ]  # fmt: skip
    colours = [paint, paint, paint, glass, paint, paint, glass, paint, paint]
    _profile(sketch, points, w, colours)
    _sides(sketch, -h + 0.04, h - 0.04, 0.24, belt, w, (14, 3), paint)
    pillar = paint * 0.6
    cabin = np.stack([np.stack([pillar, glass, glass, glass, pillar, glass, glass, glass, pillar])] * 2)
    _sides(
        sketch,
        -0.38 * length,
        0.20 * length,
        belt,
        0.95 * height,
        w,
        (9, 2),
        cabin,
        top=(-0.24 * length, 0.06 * length),
        inset=0.14 * w,
    )
    _sides(sketch, -0.28 * length, 0.10 * length, 0.95 * height, height, 0.74 * w, (6, 1), paint)
    _wheels(sketch, (-0.29 * length, 0.31 * length), w, 0.33)
    _ends(sketch, lamps, size, 0.47 * height, head, high_lamp=0.22 * length)


def _van(sketch: Sketch, lamps: Sketch, size, paint, head: bool) -> None:
    length, width, height = size
    h, w = length / 2, width
    glass = palette.GLASS
    _core(sketch, size, paint, 0.3, 0.8)
    points = [
        (h, 0.25, 0.95), (h, 0.47 * height, 0.95), (0.38 * length, 0.55 * height, 0.94),
        (0.24 * length, 0.96 * height, 0.84), (0.2 * length, height, 0.84), (-h + 0.05, height, 0.88),
    ]  # fmt: skip
    _profile(sketch, points, w, [paint, paint, glass, paint, paint], cell=0.45)
    _sides(sketch, -h + 0.04, h - 0.04, 0.27, 0.55 * height, w, (14, 3), paint)
    row = np.stack([paint] * 10 + [glass, glass, glass, paint * 0.8])
    cells = np.stack([row, row, np.stack([paint] * 14)])
    _sides(sketch, -h, 0.38 * length, 0.55 * height, height, w, (14, 3), cells, top=(-h, 0.24 * length), inset=0.06 * w)
    sketch.patch(_across(-h, w * 0.92, 0.25, 0.55 * height, -1), (6, 4), paint)
    row = np.stack([paint * 0.8, glass, glass, paint * 0.6, glass, glass, paint * 0.8])
    rear = np.stack([row, row, np.stack([paint] * 7)])
    sketch.patch(_across(-h, w * 0.9, 0.55 * height, height, -1), (7, 3), rear)
    _wheels(sketch, (-0.30 * length, 0.32 * length), w, 0.35)
    _ends(sketch, lamps, size, 0.42 * height, head, high_lamp=0.0)


def _truck(sketch: Sketch, lamps: Sketch, size, paint, head: bool) -> None:
    length, width, height = size
    h, w, cab = length / 2, width, min(2.2, 0.3 * length)
    glass, box = palette.GLASS, 0.5 * paint + 0.45
    split, roof = h - cab, 0.82 * height
    _core(sketch, size, box, 0.5, 0.85)
    points = [
        (h, 0.35, 0.95),
        (h, 0.45 * height, 0.95),
        (h - 0.15, 0.75 * height, 0.92),
        (h - 0.3, roof, 0.9),
        (split, roof, 0.9),
    ]
    _profile(sketch, points, w, [paint, glass, paint, paint], cell=0.4)
    cells = np.stack(
        [np.stack([paint, paint, paint]), np.stack([paint, glass, glass]), np.stack([paint, paint, paint])]
    )
    _sides(sketch, split, h, 0.4, roof, w * 0.96, (6, 6), cells.repeat(2, axis=0).repeat(2, axis=1))
    _sides(sketch, -h, split - 0.15, 0.85, height, w, (max(4, round((length - cab) / 0.5)), 6), box)
    _sides(sketch, -h + 0.2, split, 0.35, 0.8, w * 0.8, (max(4, round((length - cab) / 0.7)), 1), DARK)
    sketch.patch(_across(-h, w * 0.98, 0.85, height, -1), (6, 6), box * 0.92)
    sketch.patch(_across(split - 0.15, w * 0.98, roof - 0.2, height, 1), (6, 2), box)
    sketch.patch(_across(-h, w * 0.9, 0.35, 0.8, -1), (4, 1), DARK)
    _wheels(sketch, (-h + 1.0, -h + 2.1, h - 1.1) if length > 7 else (-h + 1.1, h - 0.9), w * 0.94, 0.48)
    _ends(sketch, lamps, size, 0.72, head, low=0.5, high_lamp=None)


def _bus(sketch: Sketch, lamps: Sketch, size, paint, head: bool) -> None:
    length, width, height = size
    h, w = length / 2, width
    glass, count = palette.GLASS, max(6, round(length / 0.5))
    _core(sketch, size, paint, 0.4, 0.85)
    _profile(
        sketch,
        [(h, 0.35, 0.96), (h, 0.38 * height, 0.96), (h - 0.08, 0.86 * height, 0.96), (h - 0.12, height, 0.94)],
        w,
        [paint, glass, paint],
        cell=0.4,
    )
    band = np.stack([np.stack([paint * 0.5 if k % 4 == 3 else glass for k in range(count)])] * 3)
    _sides(sketch, -h, h, 0.35, 0.45 * height, w, (count, 3), paint)
    _sides(sketch, -h, h, 0.45 * height, 0.82 * height, w, (count, 3), band)
    _sides(sketch, -h, h, 0.82 * height, height, w, (count, 1), paint)
    sketch.patch(_across(-h, w * 0.97, 0.35, 0.55 * height, -1), (6, 4), paint)
    sketch.patch(_across(-h, w * 0.8, 0.55 * height, 0.85 * height, -1), (6, 3), glass)
    sketch.patch(_across(-h, w * 0.97, 0.85 * height, height, -1), (6, 1), paint)
    _wheels(sketch, (-0.27 * length, 0.31 * length), w, 0.48)
    _ends(sketch, lamps, size, 0.8, head, low=0.5, high_lamp=0.0)


def _person(sketch: Sketch, size, paint, rng: np.random.Generator) -> None:
    h = size[2]
    trousers = np.array([0.16, 0.18, 0.26]) * rng.uniform(0.6, 1.8)
    hair = SKIN * rng.uniform(0.2, 0.6)
    for side in (-1, 1):
        sketch.rod([0.1 * side, 0.09 * side, 0.05], [0, 0.08 * side, 0.48 * h], 0.085, trousers)
        sketch.rod([-0.12 * side, 0.24 * side, 0.45 * h], [0, 0.2 * side, 0.8 * h], 0.06, paint * 0.85)
        sketch.blobs([0.14 * side, 0.09 * side, 0.05], np.array([0.09, 0.05, 0.04]), DARK)
    sketch.blobs([[0, 0, 0.55 * h], [0, 0, 0.66 * h], [0, 0, 0.77 * h]], np.array([0.1, 0.15, 0.1]), paint)
    sketch.blobs([0, 0, 0.92 * h], np.array([0.07, 0.065, 0.085]), SKIN)
    sketch.blobs([-0.03, 0, 0.96 * h], np.array([0.07, 0.07, 0.05]), hair)


def _cyclist(sketch: Sketch, size, paint) -> None:
    length, _, h = size
    reach, radius = length / 2 - 0.33, 0.33
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for x in (-reach, reach):
        ring = np.column_stack([x + 0.9 * radius * np.cos(angles), 0 * angles, radius + 0.9 * radius * np.sin(angles)])
        tangents = np.column_stack([-np.sin(angles), 0 * angles, np.cos(angles)])
        sketch.splats(ring, tangents, (0, 1.0, 0), np.array([0.09, 0.035, 0.025]), TYRE)
    saddle, bar, pedals = np.array([-0.2, 0, 0.95]), np.array([0.45, 0, 1.0]), np.array([0, 0, 0.32])
    frame = palette.METAL * 0.8
    hubs = np.array([-reach, 0, radius]), np.array([reach, 0, radius])
    for a, b in ((hubs[0], saddle), (hubs[0], pedals), (pedals, saddle), (pedals, bar), (saddle, bar), (bar, hubs[1])):
        sketch.rod(a, b, 0.035, frame)
    hip, shoulder = np.array([-0.18, 0, 0.60 * h]), np.array([0.18, 0, 0.84 * h])
    trousers = np.array([0.18, 0.19, 0.24])
    for side in (-1, 1):
        knee = np.array([0.15, 0.12 * side, 0.40 * h])
        sketch.rod(hip + [0, 0.1 * side, 0], knee, 0.08, trousers)
        sketch.rod(knee, [0.02 + 0.08 * side, 0.11 * side, 0.2], 0.07, trousers)
        sketch.rod(shoulder + [0, 0.17 * side, 0], bar + [0, 0.22 * side, 0], 0.05, paint * 0.85)
    steps = np.array([0.1, 0.4, 0.7, 1.0])[:, None]
    sketch.blobs(hip + steps * (shoulder - hip), np.array([0.12, 0.15, 0.12]), paint)
    sketch.blobs(shoulder + [0.1, 0, 0.1 * h], np.array([0.08, 0.07, 0.09]), SKIN)
    sketch.blobs(shoulder + [0.09, 0, 0.145 * h], np.array([0.1, 0.08, 0.05]), paint * 0.4 + 0.5)
    _lamp(sketch, -1, [-reach - 0.34, 0, 0.7], 0.05, 0.05, TAIL * 1.6)


def _obstacle(sketch: Sketch, size, paint) -> None:
    """A box with white stripes; something small is a cone with a white band."""
    length, width, height = size
    if max(length, width) < CONE_M:
        for low, high, colour in ((0.0, 0.06, DARK), (0.06, 0.4, paint), (0.4, 0.65, WHITE), (0.65, 1.0, paint)):
            middle = 0.5 * (low + high)
            wide = width * (0.5 if low == 0.0 else 0.34 * (1.1 - middle))
            sketch.blobs([0, 0, middle * height], np.array([wide, wide, 0.36 * (high - low) * height]), colour)
        return
    stripes = np.stack([[paint if (k + row) % 2 else np.array([0.9, 0.9, 0.9]) for k in range(4)] for row in range(3)])
    _sides(sketch, -length / 2, length / 2, 0.0, height, width, (4, 3), stripes)
    for facing in (-1, 1):
        sketch.patch(_across(facing * length / 2, width, 0.0, height, facing), (4, 3), stripes)
    top = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * np.array([length / 2, width / 2, 0]) + [
        0,
        0,
        height,
    ]
    sketch.patch(top, 0.5, paint)
