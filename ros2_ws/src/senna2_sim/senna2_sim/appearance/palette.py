"""Daylight and colours. sRGB 0..1. The sky is an octahedral map, see `render.octahedral_directions`."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from senna2_sim.appearance.sketch import Light
from senna2_sim.render import octahedral_directions

SKY_SIZE = 257

ASPHALT = np.array([0.34, 0.345, 0.355])
WHITE_PAINT = np.array([0.92, 0.92, 0.90])
YELLOW_PAINT = np.array([0.93, 0.72, 0.20])
KERB_STONE = np.array([0.66, 0.65, 0.62])
PAVING = np.array([0.60, 0.57, 0.53])
GRASS = np.array([0.33, 0.43, 0.20])
LEAVES = np.array([0.22, 0.40, 0.14])
BARK = np.array([0.32, 0.25, 0.19])
WALLS = np.array([
    [0.72, 0.62, 0.50], [0.62, 0.36, 0.28], [0.78, 0.75, 0.69], [0.55, 0.56, 0.58],
    [0.70, 0.55, 0.38], [0.52, 0.42, 0.36], [0.80, 0.70, 0.58], [0.48, 0.54, 0.60],
])  # fmt: skip
GLASS = np.array([0.16, 0.20, 0.26])
LIT = np.array([0.98, 0.82, 0.48])  # window with the lights on
METAL = np.array([0.42, 0.44, 0.46])
LAMPS = {"red": (1.0, 0.10, 0.06), "yellow": (1.0, 0.80, 0.10), "green": (0.10, 0.95, 0.45)}


@dataclass(frozen=True, kw_only=True)
class Daylight:
    """One time of day: its light, its sky from zenith to horizon, and how much of what shines by itself is on."""

    light: Light
    zenith: np.ndarray  # (3,)
    horizon: np.ndarray  # (3,), away from the sun
    sunward: np.ndarray  # (3,), horizon under the sun
    sun_glow: float  # strength of the bright disc
    clouds: float  # 0..1
    lit_windows: float  # share of windows with the lights on
    headlights: bool


def daylight(kind: str, azimuth_rad: float) -> Daylight:
    """The palette of `Clip.daylight` with the sun at azimuth_rad (from x, counter-clockwise)."""

    def sun(elevation_deg: float) -> tuple[float, float, float]:
        flat = np.cos(np.deg2rad(elevation_deg))
        return flat * np.cos(azimuth_rad), flat * np.sin(azimuth_rad), np.sin(np.deg2rad(elevation_deg))

    match kind:
        case "day":
            return Daylight(
                light=Light(ambient=(0.60, 0.64, 0.70), direct=(0.55, 0.52, 0.46), towards=sun(42)),
                zenith=np.array([0.26, 0.48, 0.82]), horizon=np.array([0.74, 0.84, 0.93]),
                sunward=np.array([0.90, 0.92, 0.92]), sun_glow=0.9, clouds=0.5, lit_windows=0.0, headlights=False,
            )  # fmt: skip
        case "dusk":
            return Daylight(
                light=Light(ambient=(0.54, 0.51, 0.58), direct=(0.46, 0.29, 0.16), towards=sun(12)),
                zenith=np.array([0.17, 0.21, 0.40]), horizon=np.array([0.50, 0.45, 0.52]),
                sunward=np.array([0.96, 0.62, 0.38]), sun_glow=0.6, clouds=0.35, lit_windows=0.35, headlights=True,
            )  # fmt: skip
        case "overcast":
            return Daylight(
                light=Light(ambient=(0.76, 0.78, 0.80), direct=(0.08, 0.08, 0.08), towards=sun(60)),
                zenith=np.array([0.62, 0.65, 0.69]), horizon=np.array([0.78, 0.79, 0.80]),
                sunward=np.array([0.80, 0.80, 0.80]), sun_glow=0.0, clouds=0.25, lit_windows=0.08, headlights=False,
            )  # fmt: skip
    raise ValueError(f"daylight {kind!r}: wanted day, dusk or overcast")


def sky_map(day: Daylight, rng: np.random.Generator) -> np.ndarray:
    """Light from every direction, (SKY_SIZE, SKY_SIZE, 3) float32; below the horizon distant ground."""
    directions = octahedral_directions(SKY_SIZE)
    up = directions[..., 2]
    towards = np.array(day.light.towards)
    flat = directions[..., :2] / np.maximum(np.linalg.norm(directions[..., :2], axis=-1, keepdims=True), 1e-6)
    side = (0.5 + 0.5 * flat @ (towards[:2] / np.linalg.norm(towards[:2])))[..., None]
    horizon = day.horizon + (day.sunward - day.horizon) * side**2
    height = np.clip(up, 0, 1)[..., None] ** 0.55
    sky = horizon + (day.zenith - horizon) * height

    noise = sum(
        gaussian_filter(rng.standard_normal((256, 256)), w, mode="wrap") * w**1.6 for w in (2.0, 4.0, 8.0, 16.0)
    )
    plane = directions[..., :2] / (np.maximum(up, 0)[..., None] + 0.15) * 22 + 128  # a flat layer of clouds
    texture = map_coordinates(noise / noise.std(), plane.transpose(2, 0, 1), order=1, mode="grid-wrap")
    cover = day.clouds * np.clip(0.7 * texture + 0.1, 0, 1) * np.clip(up * 5 - 0.3, 0, 1)
    bright = 0.45 * day.sunward + 0.55 * np.minimum(day.horizon * 1.15, 1)
    sky += cover[..., None] * (bright - sky)
    cosine = np.clip(directions @ towards, 0, 1)
    sky += day.sun_glow * (0.25 * cosine**24 + cosine**700)[..., None] * np.array([1.0, 0.95, 0.85])

    ridge = gaussian_filter(rng.standard_normal(up.shape), 4.0)
    skyline = 0.035 + 0.016 * np.clip(ridge / ridge.std(), -1.5, 2.5)
    trees = 0.55 * horizon + 0.45 * day.light.shade(0.8 * LEAVES[None], np.array([[0.0, 0.0, 1.0]]))[0]
    sky += np.clip((skyline - up) / 0.012, 0, 1)[..., None] * (trees - sky)
    ground = day.light.shade(ASPHALT[None], np.array([[0.0, 0.0, 1.0]]))[0]
    sky += np.clip(-up / 0.03, 0, 1)[..., None] * (ground - sky)
    return np.clip(sky, 0, 1).astype(np.float32)
