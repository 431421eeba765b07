"""Camera effects: off means untouched, seeded means repeatable, and each does what its formula says."""

import json

import numpy as np
import pytest

from senna2_sim.camera_effects import GAMMA, GREY, PRESETS, CameraEffects, add_effects, load_effects
from senna2_sim.env import SimEnv
from senna2_sim.rig import load_rig

FRONT, LEFT = (load_rig("small")[name] for name in ("front", "left"))
S = 1_000_000_000


def flat(value: int) -> np.ndarray:
    return np.full((180, 320, 3), value, np.uint8)


def light(image: np.ndarray) -> np.ndarray:
    return (image / 255) ** GAMMA


def spoil(image: np.ndarray, camera=FRONT, seed=0, stamp_ns=S, yaw_rate=0.0, **amounts: float) -> np.ndarray:
    effects = CameraEffects(**amounts)
    return add_effects(image, camera, effects, seed=seed, stamp_ns=stamp_ns, yaw_rate_radps=yaw_rate)


def test_without_effects_the_image_is_the_same_array():
    image = flat(90)
    assert spoil(image) is image and load_effects() == CameraEffects()
    assert np.array_equal(spoil(image, shutter_s=0.02), image)  # straight on: nothing to smear


def test_noise_repeats_with_seed_stamp_and_camera_and_with_nothing_else():
    amounts = {"read_noise": 0.02, "shot_noise": 0.1}
    one = spoil(flat(90), **amounts)
    np.testing.assert_array_equal(spoil(flat(90), **amounts), one)
    for other in ({"seed": 1}, {"stamp_ns": S + 1}, {"camera": LEFT}):
        assert np.mean(spoil(flat(90), **other, **amounts) != one) > 0.5


@pytest.mark.parametrize("value", [60, 128, 200])
def test_the_noises_variance_is_affine_in_the_light(value):
    read, shot = 0.01, 0.05
    noisy = light(spoil(flat(value), read_noise=read, shot_noise=shot))
    assert noisy.mean() == pytest.approx(light(flat(value)).mean(), abs=1e-3)
    assert noisy.std() == pytest.approx(np.sqrt(shot**2 * (value / 255) ** GAMMA + read**2), rel=0.03)


def test_auto_exposure_goes_to_mid_grey_but_only_two_stops():
    assert light(spoil(flat(90), auto_exposure=1.0)).mean() == pytest.approx(GREY, rel=0.02)
    assert light(spoil(flat(90), auto_exposure=0.5)).mean() == pytest.approx(
        np.sqrt(GREY * light(flat(90)).mean()), rel=0.02
    )
    assert light(spoil(flat(20), auto_exposure=1.0)).mean() == pytest.approx(4 * light(flat(20)).mean(), rel=0.05)


def test_the_gain_drifts_slowly_within_its_amplitude_and_each_camera_on_its_own():
    stamps = S + np.arange(200) * S // 10

    def stops(camera):
        seen = [light(spoil(flat(120), camera, stamp_ns=int(t), exposure_stops=0.5)).mean() for t in stamps]
        return np.log2(np.array(seen) / light(flat(120)).mean())

    front, left = stops(FRONT), stops(LEFT)
    assert np.abs(front).max() <= 0.52 and np.ptp(front) > 0.3
    assert np.abs(np.diff(front)).max() < 0.03
    assert np.abs(front - left).max() > 0.1


def test_vignetting_takes_its_share_from_the_corners_and_nothing_from_the_middle():
    ratio = light(spoil(flat(200), vignetting=0.4)) / light(flat(200))
    assert ratio[90, 160] == pytest.approx(1.0, abs=0.01)
    for corner in (ratio[0, 0], ratio[0, -1], ratio[-1, 0], ratio[-1, -1]):
        assert corner == pytest.approx(0.6, abs=0.01)


def test_blur_keeps_the_light_and_takes_the_contrast():
    image = (np.random.default_rng(0).random((180, 320, 3)) * 255).astype(np.uint8)
    blurred = light(spoil(image, blur_px=2.0))
    assert blurred.mean() == pytest.approx(light(image).mean(), rel=0.01)
    # white noise through a Gaussian: its variance falls to 1 / (4 pi sigma^2)
    assert blurred.std() / light(image).std() == pytest.approx(1 / np.sqrt(4 * np.pi * 4), rel=0.05)


def test_turning_smears_upright_edges_by_focal_length_times_angle():
    edge = flat(0)
    edge[:, 160:] = 255
    angle = 0.02 * 1.5  # rad: shutter times yaw rate
    wanted_px = angle * FRONT.intrinsics[0, 0]
    row = light(spoil(edge, shutter_s=0.02, yaw_rate=-1.5))[90, :, 0]
    assert np.sum((row > 0.02) & (row < 0.98)) == pytest.approx(wanted_px, abs=1.5)
    centre = np.arange(320) + 0.5
    np.testing.assert_allclose(row, np.clip((centre - 160) / wanted_px + 0.5, 0, 1), atol=0.08)
    level = np.ascontiguousarray(edge.transpose(1, 0, 2))[:180]
    np.testing.assert_array_equal(spoil(level, shutter_s=0.02, yaw_rate=1.5), level)


def test_the_environment_adds_to_each_camera_what_the_function_says():
    clean, spoilt = (SimEnv("curve", 1, effects=effects) for effects in (None, PRESETS["harsh"]))
    (before, _), (after, _) = clean.reset(), spoilt.reset()
    for name in ("front", "rear"):
        wanted = add_effects(
            before["images"][name], load_rig("small")[name], PRESETS["harsh"], seed=1, stamp_ns=S
        )  # fmt: skip
        np.testing.assert_array_equal(after["images"][name], wanted)
        assert not np.array_equal(after["images"][name], before["images"][name])


def test_effects_come_from_a_file_or_are_refused_in_words(tmp_path):
    path = tmp_path / "mine.json"
    fields = {name: getattr(PRESETS["mild"], name) for name in CameraEffects.__dataclass_fields__}
    path.write_text(json.dumps(fields))
    assert load_effects(str(path)) == PRESETS["mild"]
    path.write_text(json.dumps(fields | {"fog": 1.0}))
    with pytest.raises(ValueError, match=r"mine\.json.*fog"):
        load_effects(str(path))
    with pytest.raises(ValueError, match="none, mild, harsh"):
        load_effects("mad")
    for wrong in ({"blur_px": -1.0}, {"vignetting": 1.5}, {"read_noise": float("nan")}, {"exposure_period_s": 0.0}):
        with pytest.raises(ValueError, match="camera effects"):
            CameraEffects(**wrong)
