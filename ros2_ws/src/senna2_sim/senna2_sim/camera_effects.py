"""What a real camera adds to a rendered picture: blur, vignetting, exposure and noise. All of it is off by default.

A pure function of picture, camera, stamp and seed, in the order in which light meets it: lens (blur, vignetting),
shutter (motion blur), gain, sensor (noise), and back to 8 bits. It works on linear light, for which 8-bit values are
taken to have gamma 2.2. The noise is the usual affine model, variance = shot^2 * light + read^2 (Foi et al., 2008,
"Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", eq. 4).
"""

import json
import math
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from senna2_core.config import from_dict
from senna2_core.objects import EgoState
from senna2_sim.rig import Camera, Rig

GAMMA = 2.2
GREY = 0.18  # linear light that auto exposure aims at
LIMIT_STOPS = 2.0  # what auto exposure corrects at most
_LIGHT = (np.arange(256, dtype=np.float32) / 255) ** np.float32(GAMMA)


@dataclass(frozen=True, kw_only=True)
class CameraEffects:
    """How much of everything; 0 switches a part off."""

    blur_px: float = 0.0  # standard deviation of a Gaussian: a lens out of focus
    vignetting: float = 0.0  # share of the light lost in the corners; grows with the square of the distance
    shutter_s: float = 0.0  # how long it is open: smears the picture sideways while the car turns
    exposure_stops: float = 0.0  # amplitude of a slow drift of the gain, own to each camera; a stop is a factor of 2
    exposure_period_s: float = 20.0  # of the drift
    auto_exposure: float = 0.0  # 0..1: how much of the way the gain goes to mid-grey, frame by frame
    read_noise: float = 0.0  # standard deviation in the dark; white is 1, linear light
    shot_noise: float = 0.0  # standard deviation at white

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not all(math.isfinite(value) and value >= 0 for value in values.values()) or self.exposure_period_s == 0:
            raise ValueError(f"camera effects: got {values}, wanted finite numbers >= 0 and exposure_period_s > 0")
        if self.vignetting > 1 or self.auto_exposure > 1:
            raise ValueError(f"camera effects: got {values}, wanted vignetting and auto_exposure of at most 1")


PRESETS = {
    "none": CameraEffects(),
    "mild": CameraEffects(blur_px=0.3, vignetting=0.15, shutter_s=0.01, exposure_stops=0.25, auto_exposure=0.2,
                          read_noise=0.003, shot_noise=0.02),
    "harsh": CameraEffects(blur_px=0.8, vignetting=0.4, shutter_s=0.03, exposure_stops=0.7, auto_exposure=0.5,
                           read_noise=0.01, shot_noise=0.06),
}  # fmt: skip


def load_effects(name_or_path: str = "none") -> CameraEffects:
    """A preset by name, or all fields of CameraEffects from a JSON file.

    Raises:
        ValueError: unknown name, unreadable file, unknown or missing fields, values out of range.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".json" or not path.is_file():
        raise ValueError(
            f"camera effects {name_or_path!r}: no such file; wanted one of {', '.join(PRESETS)}, or the path of a .json"
        )
    try:
        return from_dict(CameraEffects, json.loads(path.read_text()), f"camera effects {path}")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"camera effects {path}: {error}; wanted a JSON object") from error


def with_effects(
    images: dict[str, np.ndarray], rig: Rig, effects: CameraEffects, *, seed: int, ego: EgoState
) -> dict[str, np.ndarray]:
    """`add_effects` to the images of a rig's cameras, taken at ego.stamp_ns; the same arrays when all are off."""
    yaw_rate, stamp_ns = ego.yaw_rate_radps, ego.stamp_ns
    return {
        name: add_effects(image, rig[name], effects, seed=seed, stamp_ns=stamp_ns, yaw_rate_radps=yaw_rate)
        for name, image in images.items()
    }


def add_effects(
    image: np.ndarray, camera: Camera, effects: CameraEffects, *, seed: int, stamp_ns: int, yaw_rate_radps: float = 0.0
) -> np.ndarray:
    """The picture as that camera would have taken it.

    Args:
        image: (H, W, 3) uint8 RGB.
        seed: of drift and noise; with the same seed, stamp and camera name they are the same.
        yaw_rate_radps: of the car, counter-clockwise, during the exposure.
    Returns:
        (H, W, 3) uint8 RGB; the image itself when all effects are off.
    """
    if effects == PRESETS["none"]:
        return image
    light = _LIGHT[image]
    if effects.blur_px:
        light = cv2.GaussianBlur(light, (0, 0), effects.blur_px, borderType=cv2.BORDER_REPLICATE)
    if effects.vignetting:
        light *= _vignette(camera.width, camera.height, effects.vignetting)
    smear_px = abs(effects.shutter_s * yaw_rate_radps) * camera.intrinsics[0, 0]
    if smear_px:
        light = cv2.filter2D(light, -1, _box(smear_px), borderType=cv2.BORDER_REPLICATE)
    light *= np.float32(2 ** _gain_stops(light, camera.name, effects, seed, stamp_ns))
    if effects.read_noise or effects.shot_noise:
        rng = np.random.default_rng([seed, stamp_ns, zlib.crc32(camera.name.encode())])
        deviation = np.sqrt(effects.shot_noise**2 * light + effects.read_noise**2)
        light += deviation * rng.standard_normal(light.shape, dtype=np.float32)
    return (light.clip(0, 1) ** np.float32(1 / GAMMA) * 255 + 0.5).astype(np.uint8)


def _gain_stops(light: np.ndarray, name: str, effects: CameraEffects, seed: int, stamp_ns: int) -> float:
    """Drift: two sines of which neither repeats the other. Auto exposure: towards GREY, as photographs are metered."""
    stops = 0.0
    if effects.exposure_stops:
        phases = np.random.default_rng([seed, zlib.crc32(name.encode())]).uniform(0, 2 * np.pi, 2)
        turns = 2 * np.pi * stamp_ns / 1e9 / effects.exposure_period_s
        stops += effects.exposure_stops * float(np.sin(turns + phases[0]) + np.sin(0.618 * turns + phases[1])) / 2
    if effects.auto_exposure:
        wanted = math.log2(GREY / max(float(light.mean()), 1e-6))
        stops += effects.auto_exposure * min(max(wanted, -LIMIT_STOPS), LIMIT_STOPS)
    return stops


def _vignette(width: int, height: int, loss: float) -> np.ndarray:
    """(H, W, 1) float32: 1 in the middle, 1 - loss in the corners."""
    x, y = (np.arange(n, dtype=np.float32) + 0.5 - n / 2 for n in (width, height))
    squares = (x**2)[None, :] + (y**2)[:, None]
    return (1 - np.float32(loss) * squares / squares[0, 0])[..., None]


def _box(length_px: float) -> np.ndarray:
    """(1, K) kernel that averages over this length, centred; its last pixels count by the part of them inside."""
    half = math.ceil(max(length_px - 1, 0) / 2)
    cells = np.arange(-half, half + 1)
    inside = np.minimum(cells + 0.5, length_px / 2) - np.maximum(cells - 0.5, -length_px / 2)
    return (inside / inside.sum()).astype(np.float32)[None]
