"""Every backend against the plain torch version, and the laws that any renderer obeys.

Where there is no GPU, the gsplat backend runs with the plain version in the place of gsplat's kernels: everything that
is ours around them is then tested all the same.
"""

import inspect
import sys
import types

import numba
import numpy as np
import pytest
import torch

from senna2_sim import backends, rasterize_gsplat
from senna2_sim import render as front
from senna2_sim.gaussians import SH_C0, Gaussians, concatenate, rotations_from_quaternions, sh_from_rgb
from senna2_sim.rasterize_torch import basis, rasterize
from senna2_sim.render import octahedral_directions, render, to_uint8

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


def near_by(rng):
    """A pose that is not far from none."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotations_from_quaternions(rng.normal([[5.0, 0, 0, 0]], 1.0))[0]
    matrix[:3, 3] = rng.normal(size=3) * 0.5
    return matrix


def oracle(gaussians, viewmat, size, intrinsics=K):
    arrays = (getattr(gaussians, name) for name in ("means", "quaternions", "scales", "opacities", "sh"))
    tensors = [torch.from_numpy(np.asarray(a, np.float64)) for a in (*arrays, viewmat, intrinsics)]
    return [x.numpy() for x in rasterize(*tensors, *size)]


def rasterization(
    means, quats, scales, opacities, colors, viewmats, Ks, width, height,
    *, near_plane=0.01, packed=True, render_mode="RGB",
):  # fmt: skip
    """gsplat.rasterization by the plain version, for what the adapter asks: colours as they are, any batches."""
    assert not packed and render_mode == "RGB+ED"
    batch, n, c = means.shape[:-2], means.shape[-2], viewmats.shape[-3]
    shapes = [(n, 3), (n, 4), (n, 3), (n,), (n, 3), (c, 4, 4), (c, 3, 3)]
    tensors = [means, quats, scales, opacities, colors, viewmats, Ks]
    for tensor, shape in zip(tensors, shapes, strict=True):
        assert tensor.shape == batch + shape and tensor.dtype == torch.float32
    pictures = []
    flat = [x.double().reshape(-1, *shape) for x, shape in zip(tensors, shapes, strict=True)]
    for *cloud, rgb, views, lenses in zip(*flat, strict=True):
        for view, lens in zip(views, lenses, strict=True):
            sh = (rgb[:, None] - 0.5) / SH_C0
            color, depth, alpha = rasterize(*cloud, sh, view, lens, width, height, near_m=near_plane)
            pictures.append(torch.cat([color, depth[..., None], alpha[..., None]], dim=-1).float())
    result = torch.stack(pictures).reshape(*batch, c, height, width, 5)
    return result[..., :4], result[..., 4:], {}


def spherical_harmonics(degrees_to_use, dirs, coeffs):
    assert coeffs.shape == (*dirs.shape[:-1], (degrees_to_use + 1) ** 2, 3)
    unit = torch.nn.functional.normalize(dirs, dim=-1)
    return torch.einsum("nk,nkc->nc", basis(unit, coeffs.shape[1]), coeffs)


@pytest.fixture(params=["cpu", "gsplat's place", "gsplat"])
def pack(request, monkeypatch):
    """`render.pack` of each backend."""
    if request.param == "cpu":
        return lambda groups: front.pack(groups, "cpu")
    if request.param == "gsplat":
        pytest.importorskip("gsplat")
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        return lambda groups: front.pack(groups, "gsplat")
    place = types.SimpleNamespace(rasterization=rasterization, spherical_harmonics=spherical_harmonics)
    monkeypatch.setitem(sys.modules, "gsplat", place)
    return lambda groups: rasterize_gsplat.upload(groups, "cpu")


def alike(got, want):
    """Equal up to rounding, which may make a few pixels fall on the other side of a threshold."""
    assert np.abs(got - want).mean() < 1e-5
    assert np.abs(got - want).max() < 1e-2


@pytest.mark.parametrize("sh_size", [1, 4, 9, 16])
@pytest.mark.parametrize(("scale", "opacity"), [(0.05, (0.0, 1.0)), (0.3, (0.0, 1.0)), (0.15, (0.9, 1.0))])
def test_every_pixel_equals_the_plain_version(pack, sh_size, scale, opacity):
    rng = np.random.default_rng(sh_size)
    size = (70, 45)
    ahead = cloud(rng, 320, sh_size, near=1.0, scale=scale, opacity=opacity)
    behind = cloud(rng, 30, sh_size, near=-2.0, far=-0.1, scale=scale, opacity=opacity)
    gaussians = concatenate([ahead, behind])
    viewmat = pose(rng)
    world = np.linalg.inv(viewmat)
    moved = moved_by(gaussians, world)
    frame = render(pack([moved]), viewmat[None], K[None], [size])[0]
    rgb, depth, alpha = oracle(moved, viewmat, size)
    alike(frame.rgb, rgb)
    alike(frame.alpha, alpha)
    seen = alpha > 0.05
    assert seen.mean() > 0.1
    alike(frame.depth[seen], depth[seen])


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


def test_cameras_in_one_call_equal_single_calls(pack):
    rng = np.random.default_rng(1)
    packed = pack([cloud(rng, 300)])
    sizes = [(70, 45), (33, 17), (70, 45)]
    views = np.stack([np.eye(4), pose(rng), pose(rng)])
    intrinsics = np.stack([K, K * [[0.5], [0.5], [1]], K * [[1.1], [1], [1]]])
    for index, frame in enumerate(render(packed, views, intrinsics, sizes, margin=0.2)):
        one = slice(index, index + 1)
        alone = render(packed, views[one], intrinsics[one], sizes[one], margin=0.2)[0]
        assert frame.rgb.shape == (sizes[index][1], sizes[index][0], 3)
        assert frame.alpha.mean() > 0.01
        alike(frame.rgb, alone.rgb)
        alike(frame.alpha, alone.alpha)
        if isinstance(packed, front.CpuGaussians):
            np.testing.assert_array_equal(frame.rgb, alone.rgb)
            np.testing.assert_array_equal(frame.depth, alone.depth)


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(2)
    packed = front.pack([cloud(rng, 2000), cloud(rng, 300)], "cpu")
    before = numba.get_num_threads()
    frames = []
    for threads in range(1, before + 1):
        numba.set_num_threads(threads)
        frames.append(render(packed, np.eye(4)[None], K[None], [(70, 45)])[0].rgb)
    numba.set_num_threads(before)
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame, frames[0])


def test_a_posed_group_looks_as_if_its_gaussians_had_moved(pack):
    rng = np.random.default_rng(3)
    static, actor, motion = cloud(rng, 300), cloud(rng, 100), pose(rng)
    poses = np.stack([np.eye(4), motion])
    posed = render(pack([static, actor]), np.eye(4)[None], K[None], [(70, 45)], group_poses=poses)[0]
    moved = render(pack([concatenate([static, moved_by(actor, motion)])]), np.eye(4)[None], K[None], [(70, 45)])[0]
    alike(posed.rgb, moved.rgb)


def test_moving_everything_and_the_camera_together_changes_nothing(pack):
    rng = np.random.default_rng(4)
    packed, motion = pack([cloud(rng, 400, sh_size=16)]), pose(rng)
    still = render(packed, np.eye(4)[None], K[None], [(70, 45)])[0]
    view = np.linalg.inv(motion)[None]
    moved = render(packed, view, K[None], [(70, 45)], group_poses=motion[None])[0]
    alike(still.rgb, moved.rgb)


def test_a_disabled_group_is_not_drawn(pack):
    rng = np.random.default_rng(5)
    a, b = cloud(rng, 300), cloud(rng, 300)
    both = render(pack([a, b]), np.eye(4)[None], K[None], [(70, 45)], enabled=np.array([True, False]))[0]
    alone = render(pack([a]), np.eye(4)[None], K[None], [(70, 45)])[0]
    alike(both.rgb, alone.rgb)
    if isinstance(pack([a]), front.CpuGaussians):
        np.testing.assert_array_equal(both.rgb, alone.rgb)


def test_the_sky_fills_what_the_gaussians_leave(pack):
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


def test_the_frustum_test_never_drops_what_shows(pack):
    rng = np.random.default_rng(7)
    gaussians = cloud(rng, 1500, near=0.02, far=3.0, scale=0.2)
    edge = np.abs(gaussians.means[:, 0] / gaussians.means[:, 2]) > 0.5
    gaussians = gaussians.take(edge)
    frame = render(pack([gaussians]), np.eye(4)[None], K[None], [(70, 45)])[0]
    rgb, _, alpha = oracle(gaussians, np.eye(4), (70, 45))
    alike(frame.rgb, rgb)
    alike(frame.alpha, alpha)


def test_near_and_margin_leave_out_what_their_names_say(pack):
    rng = np.random.default_rng(8)
    gaussians = cloud(rng, 1000, near=0.1, far=6.0)
    x, y, z = gaussians.means.T
    wide, high = np.abs(x / z * K[0, 0] + K[0, 2] - 35) / 35, np.abs(y / z * K[1, 1] + K[1, 2] - 22.5) / 22.5
    kept = gaussians.take((z > 1.0) & (wide < 1.25) & (high < 1.25))
    cut = render(pack([gaussians]), np.eye(4)[None], K[None], [(70, 45)], near_m=1.0, margin=0.25)[0]
    alone = render(pack([kept]), np.eye(4)[None], K[None], [(70, 45)])[0]
    assert 50 < len(kept) < 900
    assert np.abs(cut.rgb - alone.rgb).mean() < 1e-6


def test_nothing_to_see_is_the_sky(pack):
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
        render(front.pack([Gaussians(**good, **rest)]), np.eye(3)[None], K[None], [(8, 8)])
    with pytest.raises(ValueError, match="camera 0 has size 8x0"):
        render(front.pack([Gaussians(**good, **rest)]), np.eye(4)[None], K[None], [(8, 0)])


def test_quantise_rounds_and_clips():
    values = np.array([[-0.5, 0.0, 0.5], [1.0, 2.0, 100.4 / 255]], np.float32)
    assert to_uint8(values).tolist() == [[0, 0, 128], [255, 255, 100]]


def test_backends_draw_the_same_street(monkeypatch):
    """Everything at once, as the simulator asks for it: moving and hidden groups, sizes, near plane, margin, sky."""
    place = types.SimpleNamespace(rasterization=rasterization, spherical_harmonics=spherical_harmonics)
    monkeypatch.setitem(sys.modules, "gsplat", place)
    rng = np.random.default_rng(9)
    groups = [cloud(rng, 250, 4), cloud(rng, 60, 16), cloud(rng, 60)]
    far = np.eye(4)
    far[:3, 3] = 4321.0, -1234.0, 56.0  # a map's origin lies far from where one drives
    poses = far @ np.stack([np.eye(4), near_by(rng), near_by(rng)])
    views = np.stack([np.eye(4), near_by(rng), near_by(rng)]) @ np.linalg.inv(far)
    sky = rng.random((9, 9, 3)).astype(np.float32)
    given = dict(group_poses=poses, enabled=np.array([True, True, False]), sky=sky, near_m=0.4, margin=0.3)
    sizes = [(70, 45), (40, 30), (70, 45)]
    lenses = np.stack([K, K * [[0.5], [0.7], [1]], K])
    frames = [
        render(packed, views, lenses, sizes, **given)
        for packed in (front.pack(groups, "cpu"), rasterize_gsplat.upload(groups, "cpu"))
    ]
    for a, b in zip(*frames, strict=True):
        assert 0.05 < a.alpha.mean() < 0.999
        alike(a.rgb, b.rgb)
        alike(a.alpha, b.alpha)


def test_the_place_of_gsplat_is_called_as_gsplat_is():
    gsplat = pytest.importorskip("gsplat")
    for ours in (rasterization, spherical_harmonics):
        real = inspect.signature(getattr(gsplat, ours.__name__)).parameters
        for index, (name, parameter) in enumerate(inspect.signature(ours).parameters.items()):
            assert real[name].default == parameter.default
            assert parameter.kind == parameter.KEYWORD_ONLY or list(real)[index] == name


def test_the_cpu_draws_where_gsplat_cannot(monkeypatch):
    monkeypatch.setattr(backends, "_chosen", "gsplat")
    assert "as told" in backends.choose("cpu") and backends.chosen() == "cpu"
    for reason, text in (("gsplat is not installed", "CPU: gsplat is not"), ("", "gsplat on the GPU")):
        monkeypatch.setattr(backends, "why_not_gsplat", lambda reason=reason: reason)
        for device in ("auto", "cuda"):
            assert text in backends.choose(device)
            assert backends.chosen() == ("cpu" if reason else "gsplat")
    monkeypatch.setattr(backends, "_chosen", "cpu")


def test_a_gsplat_that_fails_says_so(monkeypatch):
    def fails():
        raise RuntimeError("no nvcc\nsecond line")

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in backends.why_not_gsplat()
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in backends.why_not_gsplat()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(rasterize_gsplat, "try_out", fails)
    assert backends.why_not_gsplat() == "gsplat does not work (no nvcc)"
