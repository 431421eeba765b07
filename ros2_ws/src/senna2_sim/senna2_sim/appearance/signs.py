"""Traffic signs and a flagger's paddle, as small pictures on a pole: one Gaussian per picture cell. Frame: map.

A cell of CELL_M at 25 m is one pixel of the small rig's front camera.
"""

import numpy as np

from senna2_sim.appearance import palette
from senna2_sim.appearance.sketch import Sketch
from senna2_sim.world.types import Sign, TrafficLight

CELL_M = 0.115
PADDLE_CELL_M = 0.085
SHARP = 0.52  # standard deviation of a cell, in cells: softer ones blur the digits, sharper ones let the pole through
COLOURS = {
    "R": np.array([0.80, 0.06, 0.07]),
    "W": np.array([0.95, 0.95, 0.94]),
    "K": np.array([0.05, 0.05, 0.06]),
    "O": np.array([0.98, 0.50, 0.05]),
    "G": np.array([0.05, 0.55, 0.25]),
    "B": np.array([0.08, 0.25, 0.65]),
}
STOP = """
...WWWWW...
..WRRRRRW..
.WRRRRRRRW.
WRRRRRRRRRW
WRWWRWWRWWW
WRWRRRWRWRW
WRWWRWWRWWW
WRRRRRRRRRW
.WRRRRRRRW.
..WRRRRRW..
...WWWWW...
"""
GIVE_WAY = """
RRRRRRRRRRRRR
.RRWWWWWWWRR.
.RRRWWWWWRRR.
..RRWWWWWRR..
..RRRWWWRRR..
...RRWWWRR...
...RRRWRRR...
....RRRRR....
....RRRRR....
.....RRR.....
......R......
"""
DISC = """
...RRRRR...
.RRRRRRRRR.
.RRWWWWWRR.
RRWWWWWWWRR
RWWWWWWWWWR
RWWWWWWWWWR
RWWWWWWWWWR
RRWWWWWWWRR
.RRWWWWWRR.
.RRRRRRRRR.
...RRRRR...
"""
LANE_ENDS_RIGHT = """
......K......
.....KOK.....
....KOOOK....
...KOOOOOK...
..KOKOOKOOK..
.KOOKOOKOOOK.
KOOOKOOOKOOOK
.KOOKOOOOKOK.
..KOKOOOOKK..
...KOOOOOK...
....KOOOK....
.....KOK.....
......K......
"""
WORKS = """
......K......
.....KOK.....
....KOOOK....
...KOOKOOK...
..KOOKKKOOK..
.KOOOOKOOOOK.
KOOOKKKOOOOOK
.KOOKOKOKOOK.
..KOKOKKKOK..
...KOOOOOK...
....KOOOK....
.....KOK.....
......K......
"""
DETOUR_RIGHT = """
OOOOOOOOOOOOOOOO
OOOOOOOOOOKOOOOO
OOOOOOOOOOKKOOOO
OOKKKKKKKKKKKOOO
OOKKKKKKKKKKKKOO
OOKKKKKKKKKKKOOO
OOOOOOOOOOKKOOOO
OOOOOOOOOOKOOOOO
OOOOOOOOOOOOOOOO
"""
ROUNDABOUT = """
...BBBBB...
.BBBWWWBBB.
.BWWBBBWWB.
BBWBBBBBWBB
BWBBBBBBWWW
BWBBBBBBBWB
BWBBBBBBBBB
BBWBBBBBWBB
.BWWBBBWWB.
.BBBWWWBBB.
...BBBBB...
"""
GO = """
...WWWWW...
..WGGGGGW..
.WGGGGGGGW.
WGGGGWGGGGW
WGGGWWWGGGW
WGGWWWWWGGW
WGGGGWGGGGW
WGGGGWGGGGW
.WGGGWGGGW.
..WGGGGGW..
...WWWWW...
"""
DIGITS = ("KKKKWKKWKKWKKKK", "WKWKKWWKWWKWKKK", "KKKWWKKKKKWWKKK", "KKKWWKWKKWWKKKK", "KWKKWKKKKWWKWWK",
          "KKKKWWKKKWWKKKK", "KKKKWWKKKKWKKKK", "KKKWWKWKWWKWWKW", "KKKKWKKKKKWKKKK", "KKKKWKKKKWWKKKK")  # fmt: skip


def picture(sign: Sign) -> np.ndarray:
    """The face of a sign as seen from its front, (rows, columns) of keys of COLOURS, "." where there is nothing."""
    match sign.kind:
        case "stop":
            return _cells(STOP)
        case "give_way":
            return _cells(GIVE_WAY)
        case "roundabout":
            return _cells(ROUNDABOUT)
        case "works":
            return _cells(WORKS)
        case "right_lane_closed":
            return _cells(LANE_ENDS_RIGHT)
        case "left_lane_closed":
            return _cells(LANE_ENDS_RIGHT)[:, ::-1]
        case "detour_right":
            return _cells(DETOUR_RIGHT)
        case "detour_left":
            return _cells(DETOUR_RIGHT)[:, ::-1]
        case "limit":
            return _with_number(_cells(DISC), round(3.6 * sign.limit_mps))


def draw_sign(sketch: Sketch, sign: Sign) -> None:
    """Pole, face and grey back."""
    forward, side = _axes(sign.yaw_rad)
    face = picture(sign)
    base = np.append(sign.position[:2], 0.0) - 0.22 * forward
    sketch.rod(base, base + [0, 0, sign.position[2]], 0.05, palette.METAL)
    _draw_face(sketch, face, np.asarray(sign.position), forward, side, CELL_M, glow=False)
    rows, columns = np.array(face.shape) * CELL_M * 0.3
    back, up = np.asarray(sign.position) - 0.14 * forward, np.array([0, 0, 1.0])
    corners = [back + a * columns * side + b * rows * up for a, b in ((1, -1), (-1, -1), (-1, 1), (1, 1))]
    sketch.patch(np.array(corners), (3, 3), palette.METAL)


def draw_paddle(sketch: Sketch, light: TrafficLight) -> None:
    """The stick of a flagger's paddle."""
    top = np.asarray(light.position) - 0.06 * _axes(light.yaw_rad)[0]
    sketch.rod(top * [1, 1, 0] + [0, 0, 0.9], top, 0.03, palette.METAL)


def draw_paddle_face(sketch: Sketch, light: TrafficLight, colour: str) -> None:
    """What the paddle shows for a light's colour: the stop sign, or a green disc with an arrow ahead."""
    forward, side = _axes(light.yaw_rad)
    face = _cells(GO if colour == "green" else STOP)
    _draw_face(sketch, face, np.asarray(light.position), forward, side, PADDLE_CELL_M, glow=True)


def _draw_face(
    sketch: Sketch,
    face: np.ndarray,
    middle: np.ndarray,
    forward: np.ndarray,
    side: np.ndarray,
    cell_m: float,
    glow: bool,
) -> None:
    rows, columns = np.nonzero(face != ".")
    right = (columns - 0.5 * (face.shape[1] - 1)) * cell_m
    up = (0.5 * (face.shape[0] - 1) - rows) * cell_m
    centres = middle + right[:, None] * side + up[:, None] * np.array([0.0, 0.0, 1.0])
    colours = np.array([COLOURS[key] for key in face[rows, columns]])
    sketch.splats(centres, side, forward, np.array([SHARP, SHARP, 0.05]) * cell_m, colours, glow=glow)


def _axes(yaw_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a face looks, and what is right for who looks at it."""
    forward = np.array([np.cos(yaw_rad), np.sin(yaw_rad), 0.0])
    return forward, np.array([-forward[1], forward[0], 0.0])


def _cells(text: str) -> np.ndarray:
    return np.array([list(row) for row in text.split()])


def _with_number(disc: np.ndarray, number: int) -> np.ndarray:
    """A disc with a number of two digits in its middle."""
    face = disc.copy()
    for place, digit in enumerate(f"{number:02d}"[-2:]):
        face[3:8, 2 + 4 * place : 5 + 4 * place] = np.array(list(DIGITS[int(digit)])).reshape(5, 3)
    return face
