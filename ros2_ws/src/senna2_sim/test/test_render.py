"""The CPU rasterizer against the plain torch version, and the laws that any renderer obeys."""

import numba
import numpy as np
import pytest
import torch

from senna2_sim.gaussians import Gaussians, concatenate, rotations_from_quaternions, sh_from_rgb
from senna2_sim.rasterize_torch import rasterize
from senna2_sim.render import octahedral_directions, pack, render, to_uint8

K = np.array([[60.0, 0, 35.0], [0, 55.0, 22.0], [0, 0, 1]])


def cloud(rng, n, sh_size=1, near=0.3, far=12.0, scale=0.3, opacity=(0.0, 1.0)):
    depth = rng.uniform(near, far, n)
    means = np.column_stack([rng.uniform(-1.2, 1.2, n) * depth, rng.uniform(-1, 1, n) * depth, depth])
    sh = rng.normal(size=(n, sh_size, 3)) * 0.4
    quaternions = rng.normal(size=(n, 4)) * 3
    return Gaussians(means, quaternions, rng.lognormal(np.log(scale), 0.8, (n, 3)), rng.uniform(*opacity, n), sh)


def pose(rng):
    matrix = np.eye(4)
    matrix[:3, :3] = rotations_from_quaternions(rng.normal(size=(1, 4)))[0]
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


def oracle(gaussians, viewmat, size, intrinsics=K):
    arrays = (getattr(gaussians, name) for name in ("means", "quaternions", "scales", "opacities", "sh"))
    tensors = [torch.from_numpy(np.asarray(a, np.float64)) for a in (*arrays, viewmat, intrinsics)]
    return [x.numpy() for x in rasterize(*tensors, *size)]


@pytest.mark.parametrize("sh_size", [1, 4, 9, 16])
@pytest.mark.parametrize(("scale", "opacity"), [(0.02, (0.0, 1.0)), (0.3, (0.0, 1.0)), (0.15, (0.9, 1.0))])
def test_every_pixel_equals_the_plain_version(sh_size, scale, opacity):
    rng = np.random.default_rng(sh_size)
    size = (70, 45)
    gaussians = cloud(rng, 350, sh_size, near=-2.0, scale=scale, opacity=opacity)
    viewmat = pose(rng)
    world = np.linalg.inv(viewmat)
    moved = moved_by(gaussians, world)
    frame = render(pack([moved]), viewmat[None], K[None], [size])[0]
    rgb, depth, alpha = oracle(moved, viewmat, size)
    for name, got, want in (("rgb", frame.rgb, rgb), ("alpha", frame.alpha, alpha)):
        error = np.abs(got - want)
        assert error.mean() < 1e-5, (name, error.mean())
        assert error.max() < 1e-2, (name, error.max())
    seen = alpha > 0.05
    assert seen.mean() > 0.1
    assert np.abs(frame.depth - depth)[seen].mean() < 1e-3


def moved_by(gaussians, matrix):
    """The cloud after a rigid motion; its SH stay, so compare only renders with the same SH."""
    turned = matrix[:3, :3] @ gaussians.rotations
    quaternions = np.array([quaternion(r) for r in turned])
    means = gaussians.means @ matrix[:3, :3].T + matrix[:3, 3]
    return Gaussians(means, quaternions, gaussians.scales, gaussians.opacities, gaussians.sh)


def quaternion(rotation):
    """wxyz of a rotation matrix through its eigenvector form (Bar-Itzhack)."""
    m = rotation
    k = np.array([
        [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2]],
        [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2]],
        [m[1, 0] - m[0, 1], m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1]],
    ])  # fmt: skip
    return np.linalg.eigh(k)[1][:, -1]


def test_cameras_in_one_call_equal_single_calls():
    rng = np.random.default_rng(1)
    packed = pack([cloud(rng, 500)])
    sizes = [(70, 45), (33, 17), (16, 16)]
    views = np.stack([np.eye(4), pose(rng), pose(rng)])
    intrinsics = np.stack([K, K * [[0.5], [0.5], [1]], K])
    for index, frame in enumerate(render(packed, views, intrinsics, sizes)):
        alone = render(packed, views[index : index + 1], intrinsics[index : index + 1], sizes[index : index + 1])[0]
        assert frame.rgb.shape == (sizes[index][1], sizes[index][0], 3)
        np.testing.assert_array_equal(frame.rgb, alone.rgb)
        np.testing.assert_array_equal(frame.depth, alone.depth)


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(2)
    packed = pack([cloud(rng, 2000), cloud(rng, 300)])
    before = numba.get_num_threads()
    frames = []
    for threads in range(1, before + 1):
        numba.set_num_threads(threads)
        frames.append(render(packed, np.eye(4)[None], K[None], [(70, 45)])[0].rgb)
    numba.set_num_threads(before)
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame, frames[0])


def test_a_posed_group_looks_as_if_its_gaussians_had_moved():
    rng = np.random.default_rng(3)
    static, actor, motion = cloud(rng, 300), cloud(rng, 100), pose(rng)
    poses = np.stack([np.eye(4), motion])
    posed = render(pack([static, actor]), np.eye(4)[None], K[None], [(70, 45)], group_poses=poses)[0]
    moved = render(pack([concatenate([static, moved_by(actor, motion)])]), np.eye(4)[None], K[None], [(70, 45)])[0]
    np.testing.assert_allclose(posed.rgb, moved.rgb, atol=1e-2)
    assert np.abs(posed.rgb - moved.rgb).mean() < 1e-5


def test_moving_everything_and_the_camera_together_changes_nothing():
    rng = np.random.default_rng(4)
    packed, motion = pack([cloud(rng, 400, sh_size=16)]), pose(rng)
    still = render(packed, np.eye(4)[None], K[None], [(70, 45)])[0]
    view = np.linalg.inv(motion)[None]
    moved = render(packed, view, K[None], [(70, 45)], group_poses=motion[None])[0]
    assert np.abs(still.rgb - moved.rgb).mean() < 1e-5
    np.testing.assert_allclose(still.rgb, moved.rgb, atol=1e-2)


def test_a_disabled_group_is_not_drawn():
    rng = np.random.default_rng(5)
    a, b = cloud(rng, 300), cloud(rng, 300)
    both = render(pack([a, b]), np.eye(4)[None], K[None], [(70, 45)], enabled=np.array([True, False]))[0]
    alone = render(pack([a]), np.eye(4)[None], K[None], [(70, 45)])[0]
    np.testing.assert_array_equal(both.rgb, alone.rgb)


def test_the_sky_fills_what_the_gaussians_leave():
    rng = np.random.default_rng(6)
    packed = pack([cloud(rng, 100)])
    directions = octahedral_directions(257)
    sky = (directions * 0.5 + 0.5).astype(np.float32)
    camera = pose(rng)
    bare = render(packed, camera[None], K[None], [(70, 45)])[0]
    full = render(packed, camera[None], K[None], [(70, 45)], sky=sky)[0]
    x, y = np.meshgrid(np.arange(70) + 0.5, np.arange(45) + 0.5)
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], axis=-1) @ camera[:3, :3]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    want = bare.rgb + (1 - bare.alpha[..., None]) * (rays * 0.5 + 0.5)
    np.testing.assert_allclose(full.rgb, want, atol=2e-3)


def test_the_frustum_test_never_drops_what_shows():
    rng = np.random.default_rng(7)
    gaussians = cloud(rng, 1500, near=0.02, far=3.0, scale=0.2)
    edge = np.abs(gaussians.means[:, 0] / gaussians.means[:, 2]) > 0.5
    gaussians = gaussians.take(edge)
    frame = render(pack([gaussians]), np.eye(4)[None], K[None], [(70, 45)])[0]
    rgb, _, alpha = oracle(gaussians, np.eye(4), (70, 45))
    assert np.abs(frame.rgb - rgb).mean() < 1e-5
    assert np.abs(frame.alpha - alpha).max() < 1e-2


def test_near_and_margin_leave_out_what_their_names_say():
    rng = np.random.default_rng(8)
    gaussians = cloud(rng, 1000, near=0.1, far=6.0)
    x, y, z = gaussians.means.T
    wide, high = np.abs(x / z * K[0, 0] + K[0, 2] - 35) / 35, np.abs(y / z * K[1, 1] + K[1, 2] - 22.5) / 22.5
    kept = gaussians.take((z > 1.0) & (wide < 1.25) & (high < 1.25))
    cut = render(pack([gaussians]), np.eye(4)[None], K[None], [(70, 45)], near_m=1.0, margin=0.25)[0]
    alone = render(pack([kept]), np.eye(4)[None], K[None], [(70, 45)])[0]
    assert 50 < len(kept) < 900
    assert np.abs(cut.rgb - alone.rgb).mean() < 1e-6


def test_nothing_to_see_is_the_sky():
    empty = Gaussians(np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 1, 3)))
    sky = np.full((3, 3, 3), 0.25, np.float32)
    frame = render(pack([empty]), np.eye(4)[None], K[None], [(20, 10)], sky=sky)[0]
    np.testing.assert_allclose(frame.rgb, 0.25, atol=1e-6)
    assert not frame.alpha.any()


def test_bad_input_is_refused_with_its_name():
    good = dict(means=np.zeros((2, 3)), quaternions=np.ones((2, 4)), scales=np.ones((2, 3)))
    rest = dict(opacities=np.ones(2), sh=sh_from_rgb(np.ones((2, 3))))
    with pytest.raises(ValueError, match="means.*not finite"):
        Gaussians(**{**good, **rest, "means": np.full((2, 3), np.nan)})
    with pytest.raises(ValueError, match="scales.*wanted"):
        Gaussians(**{**good, **rest, "scales": np.ones((2, 2))})
    with pytest.raises(ValueError, match="not logits"):
        Gaussians(**{**good, **rest, "opacities": np.full(2, 3.0)})
    with pytest.raises(ValueError, match="viewmats"):
        render(pack([Gaussians(**good, **rest)]), np.eye(3)[None], K[None], [(8, 8)])


def test_quantise_rounds_and_clips():
    values = np.array([[-0.5, 0.0, 0.5], [1.0, 2.0, 100.4 / 255]], np.float32)
    assert to_uint8(values).tolist() == [[0, 0, 128], [255, 255, 100]]
