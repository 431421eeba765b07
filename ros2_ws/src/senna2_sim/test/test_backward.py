"""The CPU rasterizer's backward pass against float64 autograd through the plain torch version."""

import numba
import numpy as np
import pytest
import torch

from senna2_sim.differentiable import rasterize
from senna2_sim.gaussians import rotations_from_quaternions
from senna2_sim.rasterize_torch import rasterize as plain

WIDTH, HEIGHT = 45, 37
K = torch.tensor([[40.0, 0, 21.0], [0, 38.0, 19.5], [0, 0, 1]])
NAMES = ("means", "quaternions", "scales", "opacities", "sh")


def cloud(seed, n, sh_size=1, scale=0.2, opacity=(0.1, 1.0), near=1.0):
    """Tensors of NAMES; some lie outside the picture, where the Jacobian is clamped."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(near, 6.0, n)
    means = np.column_stack([rng.uniform(-0.9, 0.9, n) * depth, rng.uniform(-0.8, 0.8, n) * depth, depth])
    arrays = (
        means,
        rng.normal(size=(n, 4)) * 2,
        rng.lognormal(np.log(scale), 0.6, (n, 3)),
        rng.uniform(*opacity, n),
        rng.normal(size=(n, sh_size, 3)) * 0.5,
    )
    return [torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in arrays]


def two_cameras(seed=0):
    rng = np.random.default_rng(seed)
    views = np.stack([np.eye(4), np.eye(4)])
    views[1, :3, :3] = rotations_from_quaternions(np.array([[1.0, 0.05, -0.1, 0.3]]))[0]
    views[1, :3, 3] = rng.normal(size=3) * 0.2
    return torch.tensor(views, dtype=torch.float32), torch.stack([K, K * torch.tensor([[1.2], [0.9], [1.0]])])


def reference(gaussians, views, intrinsics):
    """The same pictures in float64, and the leaves they depend on."""
    leaves = [x.detach().double().requires_grad_() for x in gaussians]
    frames = [plain(*leaves, v.double(), k.double(), WIDTH, HEIGHT) for v, k in zip(views, intrinsics, strict=True)]
    return leaves, [torch.stack(x) for x in zip(*frames, strict=True)]


def weights(seed):
    """Random dL/d rgb, depth, alpha of both cameras, float64."""
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(size=(2, HEIGHT, WIDTH, *tail))) for tail in ((3,), (), ())]


@pytest.mark.parametrize(
    ("sh_size", "scale", "opacity", "near"),
    [
        (1, 0.2, (0.1, 1.0), 1.0),
        (4, 0.05, (0.3, 1.0), 0.5),
        (9, 0.3, (0.0, 0.6), 1.0),
        (16, 0.1, (0.1, 0.98), 0.2),
        (16, 0.2, (0.9, 1.0), 0.2),
        (1, 0.05, (0.98, 1.0), 0.5),
    ],
)
def test_gradients_equal_float64_autograd(sh_size, scale, opacity, near):
    gaussians = cloud(sh_size, 110, sh_size, scale, opacity, near)
    cameras = two_cameras()
    got = rasterize(*gaussians, *cameras, WIDTH, HEIGHT)
    leaves, want = reference(gaussians, *cameras)
    # Where float32 and float64 fall on two sides of a threshold (1/255, 1e-4) the pictures differ visibly and neither
    # derivative is that of the other: no loss is put there. Nor on depth where alpha is too small to divide by.
    agree = ((got[0] - want[0]).abs().amax(-1) < 1e-5) & ((got[2] - want[2]).abs() < 1e-5)
    assert agree.double().mean() > 0.98
    assert (want[2] > 0.05).double().mean() > 0.2
    masks = agree[..., None], agree & (want[2] > 0.05), agree
    for shown in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)):
        factors = [w * m * s for w, m, s in zip(weights(sh_size), masks, shown, strict=True)]
        sums = [sum((x * w).sum() for x, w in zip(pictures, factors, strict=True)) for pictures in (got, want)]
        ours = torch.autograd.grad(sums[0], gaussians, retain_graph=True)
        theirs = torch.autograd.grad(sums[1], leaves, retain_graph=True)
        for name, a, b in zip(NAMES, ours, theirs, strict=True):
            assert a.dtype == torch.float32 and a.shape == b.shape
            assert (a - b).abs().max() <= 1e-5 * b.abs().max(), (shown, name, (a - b).abs().max() / b.abs().max())
        assert shown[0] == 0 or theirs[4].abs().max() > 0


def test_a_small_step_changes_the_loss_by_what_the_gradient_says():
    # So wide and faint that nowhere in the pictures a threshold is crossed: the loss is smooth.
    gaussians, cameras, factors = cloud(7, 12, 4, scale=9.0, opacity=(0.2, 0.4), near=3.0), two_cameras(), weights(7)
    rng = np.random.default_rng(7)

    def loss(values):
        pictures = rasterize(*values, *cameras, WIDTH, HEIGHT)
        return (pictures[0].double() * factors[0]).sum() + (pictures[2].double() * factors[2]).sum()

    gradients = torch.autograd.grad(loss(gaussians), gaussians)
    for index, gradient in enumerate(gradients):
        step = gradient.sign() * torch.tensor(rng.uniform(0.2, 1, gradient.shape), dtype=torch.float32) * 1e-3
        with torch.no_grad():
            ahead, behind = (
                loss([x + sign * step if i == index else x for i, x in enumerate(gaussians)]) for sign in (1, -1)
            )
        slope = float(ahead - behind) / 2
        assert slope == pytest.approx(float((gradient * step).sum()), rel=0.01), NAMES[index]


def test_the_partition_of_work_changes_nothing(monkeypatch):
    gaussians, cameras, factors = cloud(1, 700, 4, 0.1), two_cameras(), weights(1)
    results = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(numba, "get_num_threads", lambda threads=threads: threads)
        pictures = rasterize(*gaussians, *cameras, WIDTH, HEIGHT)
        loss = sum((x * w).sum() for x, w in zip(pictures, factors, strict=True))
        results.append((*pictures, *torch.autograd.grad(loss, gaussians)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_gradients_of_cameras_add_up():
    gaussians, (views, intrinsics), factors = cloud(2, 300), two_cameras(), weights(2)
    both = rasterize(*gaussians, views, intrinsics, WIDTH, HEIGHT)[0]
    total = torch.autograd.grad((both * factors[0]).sum(), gaussians)
    parts = []
    for c in range(2):
        alone = rasterize(*gaussians, views[c : c + 1], intrinsics[c : c + 1], WIDTH, HEIGHT)[0]
        parts.append(torch.autograd.grad((alone[0] * factors[0][c]).sum(), gaussians))
    for want, a, b in zip(total, *parts, strict=True):
        torch.testing.assert_close(a + b, want, rtol=1e-5, atol=1e-6 * float(want.abs().max()))


def test_accumulated_depth_is_depth_times_alpha():
    gaussians, cameras = cloud(3, 60), two_cameras()
    _, depth, alpha = rasterize(*gaussians, *cameras, WIDTH, HEIGHT)
    leaves, (_, want_depth, want_alpha) = reference(gaussians, *cameras)
    agree = (alpha - want_alpha).abs() < 1e-5
    ours = torch.autograd.grad((depth * alpha * agree).sum(), gaussians[:4])
    theirs = torch.autograd.grad((want_depth * want_alpha * agree).sum(), leaves[:4])
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_screen_gradient_is_that_of_the_principal_point():
    """Moving the only Gaussian's centre on the screen is moving the principal point."""
    views, intrinsics = torch.eye(4)[None], K[None]
    gaussians = [x.detach() for x in cloud(4, 1, scale=0.5)]
    gaussians[0] = torch.tensor([[0.2, -0.3, 2.0]], requires_grad=True)
    factor = weights(4)[0][0]
    screen = torch.zeros(1, 2)
    picture = rasterize(*gaussians, views, intrinsics, WIDTH, HEIGHT, screen=screen)[0][0]
    (picture * factor).sum().backward()
    lens = K.double().requires_grad_()
    same = plain(*(x.detach().double() for x in gaussians), views[0].double(), lens, WIDTH, HEIGHT)[0]
    (same * factor).sum().backward()
    want = np.hypot(float(lens.grad[0, 2]) * WIDTH / 2, float(lens.grad[1, 2]) * HEIGHT / 2)
    assert want > 0.1
    assert float(screen[0, 0]) == pytest.approx(want, rel=1e-4)
    assert float(screen[0, 1]) == 1


def test_what_no_camera_sees_has_no_gradient():
    gaussians = cloud(5, 130)
    with torch.no_grad():
        gaussians[0][::2, 2] *= -1
    screen = torch.zeros(130, 2)
    pictures = rasterize(*gaussians, torch.eye(4)[None], K[None], WIDTH, HEIGHT, screen=screen)
    sum(x.sum() for x in pictures).backward()
    assert not screen[::2].any() and screen[1::2, 1].any()
    for x in gaussians:
        assert not x.grad[::2].any() and x.grad[1::2].any()
    empty = [x.detach()[:0].requires_grad_() for x in gaussians]
    rgb, _, alpha = rasterize(*empty, torch.eye(4)[None], K[None], WIDTH, HEIGHT)
    rgb.sum().backward()
    assert not rgb.any() and not alpha.any() and empty[0].grad.shape == (0, 3)


def test_bad_input_is_refused_with_its_name():
    gaussians = [x.detach() for x in cloud(6, 3)]
    camera = torch.eye(4)[None], K[None]
    with pytest.raises(ValueError, match=r"scales has shape \(3, 2\), wanted \(3, 3\)"):
        rasterize(*gaussians[:2], gaussians[2][:, :2], *gaussians[3:], *camera, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="sh has shape"):
        rasterize(*gaussians[:4], gaussians[4].expand(3, 5, 3), *camera, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="means has 9 values that are not finite"):
        rasterize(gaussians[0] * torch.nan, *gaussians[1:], *camera, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="viewmats has 16 values that are not finite"):
        rasterize(*gaussians, camera[0] * torch.inf, camera[1], WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="45x0"):
        rasterize(*gaussians, *camera, WIDTH, 0)
    with pytest.raises(ValueError, match="on meta, wanted cpu"):
        rasterize(gaussians[0].to("meta"), *gaussians[1:], *camera, WIDTH, HEIGHT)
