"""Fitting Gaussians to photographs: what it reads, that it gains, that it resumes."""

import inspect
import json
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from senna2_sim.differentiable import rasterize
from senna2_sim.fit import run
from senna2_sim.fit.captures import read_captures, read_points
from senna2_sim.fit.cloud import first_parameters, make_optimizers, random_points, replace_rows, to_gaussians
from senna2_sim.fit.density import DensityConfig, control
from senna2_sim.fit.engine import CpuEngine, GsplatEngine
from senna2_sim.fit.losses import _blur, _filter, photometric, psnr, ssim
from senna2_sim.fit.run import Args, fit
from senna2_sim.gaussians import Gaussians, sh_from_rgb
from senna2_sim.render import pack, render, to_uint8

WIDTH, HEIGHT, VIEWS = 64, 48, 10
LENS = np.array([[60.0, 0, 32.0], [0, 60.0, 24.0], [0, 0, 1]])


def scene(n=400):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(n, 3)) * 0.6
    colours = 0.5 + 0.5 * np.sin(means * 3)
    quaternions, scales = rng.normal(size=(n, 4)), rng.uniform(0.05, 0.15, (n, 3))
    return Gaussians(means, quaternions, scales, np.full(n, 0.9), sh_from_rgb(colours))


def poses():
    """World from camera, OpenGL axes, on a circle around the scene, (VIEWS, 4, 4)."""
    result = []
    for angle in np.linspace(0, 2 * np.pi, VIEWS, endpoint=False):
        back = np.array([np.cos(angle), np.sin(angle), 0.3]) / np.hypot(1, 0.3)
        right = np.array([-np.sin(angle), np.cos(angle), 0.0])
        pose = np.eye(4)
        pose[:3] = np.column_stack([right, np.cross(back, right), back, 3.5 * back])
        result.append(pose)
    return np.array(result)


@pytest.fixture
def folder(tmp_path):
    """Captures of `scene` as nerfstudio would write them, with coarse points."""
    views = np.linalg.inv(poses() @ np.diag([1.0, -1, -1, 1]))
    gaussians = scene()
    frames = render(pack([gaussians]), views, np.repeat(LENS[None], VIEWS, axis=0), [(WIDTH, HEIGHT)] * VIEWS)
    (tmp_path / "images").mkdir()
    meta = {"camera_model": "OPENCV", "fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0, "w": WIDTH, "h": HEIGHT}
    meta |= {"frames": [], "ply_file_path": "points.npy"}
    for index, (frame, pose) in enumerate(zip(frames, poses(), strict=True)):
        name = f"images/{index:02}.png"
        cv2.imwrite(str(tmp_path / name), cv2.cvtColor(to_uint8(frame.rgb), cv2.COLOR_RGB2BGR))
        meta["frames"].append({"file_path": name, "transform_matrix": pose.tolist()})
    noisy = gaussians.means + np.random.default_rng(1).normal(size=gaussians.means.shape) * 0.03
    np.save(tmp_path / "points.npy", noisy)
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    return tmp_path


def rewrite(folder, change):
    meta = json.loads((folder / "transforms.json").read_text())
    change(meta)
    (folder / "transforms.json").write_text(json.dumps(meta))


def settings(folder, **changes):
    defaults = {"out": folder / "out", "steps": 60, "sh_degree": 1, "rate": 4.0}
    return Args(captures=folder, threads=1, **{**defaults, **changes})


def test_the_reader_gives_the_cameras_that_took_the_pictures(folder):
    captures = read_captures(folder)
    frames = render(pack([scene()]), captures.viewmats, captures.intrinsics, [(WIDTH, HEIGHT)] * VIEWS)
    for image, frame in zip(captures.images, frames, strict=True):
        np.testing.assert_array_equal(image, to_uint8(frame.rgb))
    half = read_captures(folder, downscale=2)
    assert half.images[0].shape == (HEIGHT // 2, WIDTH // 2, 3)
    np.testing.assert_allclose(half.intrinsics[0], LENS * [[0.5], [0.5], [1]])


def test_fitting_gains_on_pictures_that_it_never_saw(folder):
    args = settings(folder, steps=80, rate=10.0)
    captures = read_captures(folder)
    first = first_parameters(*read_points(captures.points_file), args.sh_degree, captures.radius)
    engine = run.make_engine(args, captures.radius, torch.zeros(len(first["means"]), 2))
    before = run.evaluate(engine, first, captures)
    parameters, after, finished = fit(args)
    assert finished and (folder / "out" / "held_out.png").is_file()
    assert after["psnr_db"] > before["psnr_db"] + 3, (before, after)
    assert after["ssim"] > before["ssim"] + 0.15, (before, after)
    assert len(to_gaussians(parameters)) == len(first["means"])


def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(folder, monkeypatch):
    density = DensityConfig(start=4, every=5, reset_every=15, stop=0.9, grow_gradient=1e-5, max_gaussians=600)
    args = settings(folder, steps=24, density=density, out=folder / "whole")
    whole, _, _ = fit(args)
    calls = []

    def interrupted(*inputs):
        calls.append(1)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGINT)
        return photometric(*inputs)

    monkeypatch.setattr(run, "photometric", interrupted)
    _, _, finished = fit(replace(args, out=folder / "parts"))
    assert not finished and len(calls) == 12
    resumed, _, finished = fit(replace(args, out=folder / "parts", resume=True))
    assert finished and len(calls) == 24
    assert len(whole["means"]) > 400  # it did grow
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    with pytest.raises(ValueError, match=r"started with \{'rate': 4.0\}"):
        fit(replace(args, out=folder / "parts", resume=True, rate=1.0))


def test_masked_pixels_pull_at_nothing(folder):
    """Paint over a part of every photograph and mask it: with each kind of mask the fit is that of the clean ones."""
    clean, _, _ = fit(settings(folder, steps=3, points=folder / "points.npy"))
    # all of what the box hides lies within x < 20, y < 30 of the pictures
    rewrite(folder, lambda meta: [frame.update(boxes=[[0, 0, 20, 30]]) for frame in meta["frames"]])
    masked, _, _ = fit(settings(folder, steps=3, points=folder / "points.npy"))
    for file in (folder / "images").iterdir():
        image = cv2.imread(str(file))
        image[:30, :20] = 255
        cv2.imwrite(str(file), image)
    painted, _, _ = fit(settings(folder, steps=3, points=folder / "points.npy"))
    paint = np.full((HEIGHT, WIDTH), 255, np.uint8)
    paint[:30, :20] = 0
    cv2.imwrite(str(folder / "mask.png"), paint)

    def by_mask(meta):
        for frame in meta["frames"]:
            frame.pop("boxes")
            frame["mask_path"] = "mask.png"

    rewrite(folder, by_mask)
    by_file, _, _ = fit(settings(folder, steps=3, points=folder / "points.npy"))
    assert torch.equal(masked["sh0"], painted["sh0"]) and torch.equal(masked["sh0"], by_file["sh0"])
    assert not torch.equal(masked["sh0"], clean["sh0"])


def test_a_box_in_space_masks_its_silhouette(folder):
    """A flat opaque cloud that fills the box shows where the mask must be."""
    pose, size = np.eye(4), np.array([1.0, 0.6, 0.4])
    pose[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]
    pose[:3, 3] = [0.3, -0.2, 0.1]
    box = {"pose": pose.tolist(), "size": size.tolist()}
    rewrite(folder, lambda meta: [frame.update(boxes_3d=[box]) for frame in meta["frames"]])
    captures = read_captures(folder)
    axes = [np.linspace(-0.5, 0.5, 40) * length for length in size]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]
    for view, mask in zip(captures.viewmats, captures.masks, strict=True):
        x, y, z = (points @ view[:3, :3].T + view[:3, 3]).T
        hit = np.zeros((HEIGHT, WIDTH), bool)
        hit[(60 * y / z + 24).astype(int).clip(0, HEIGHT - 1), (60 * x / z + 32).astype(int).clip(0, WIDTH - 1)] = True
        grown = cv2.dilate(hit.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        shrunk = cv2.erode(hit.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert shrunk.any() and not (~mask & ~grown).any() and not (mask & shrunk).any()


def test_distortion_is_taken_out(folder):
    """A straight line that the lens bends comes out straight, and pixels from outside the photograph are masked."""
    k1, lens = 0.3, LENS
    x, y = np.meshgrid(np.arange(WIDTH, dtype=np.float64), np.arange(HEIGHT, dtype=np.float64))
    rays = cv2.undistortPoints(np.stack([x.ravel(), y.ravel()], axis=-1)[:, None], lens, np.array([k1, 0, 0, 0.0]))
    level = rays[:, 0, 0].reshape(HEIGHT, WIDTH) * 60 + 32  # the ideal column that each pixel sees
    for file in (folder / "images").iterdir():
        cv2.imwrite(str(file), np.repeat((level * 3).clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2))
    rewrite(folder, lambda meta: meta.update(k1=k1))
    captures = read_captures(folder)
    image, mask = captures.images[0].astype(float), captures.masks[0]
    wanted = np.broadcast_to((np.arange(WIDTH) * 3.0)[None, :, None], image.shape)
    assert 0.3 < mask.mean() < 1
    assert np.abs(image - wanted)[mask].max() < 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta["frames"][3].update(file_path="images/none.png"), r"none\.png does not exist"),
        (lambda meta: meta.update(w=65), r"image is 64x48, transforms.json says w, h = \(65, 48\)"),
        (lambda meta: meta["frames"][2]["transform_matrix"][0].__setitem__(3, float("nan")), r"02\.png.*not finite"),
        (lambda meta: meta["frames"][2]["transform_matrix"][0].__setitem__(0, 2.0), "holds no rotation"),
        (lambda meta: meta["frames"][2].pop("transform_matrix"), "no readable transform_matrix"),
        (lambda meta: meta.update(frames=meta["frames"][:1]), "1 frames, wanted at least 2"),
        (lambda meta: meta.update(camera_model="OPENCV_FISHEYE"), "OPENCV_FISHEYE, wanted one of"),
        (lambda meta: meta.pop("fl_x"), "neither fl_x nor camera_angle_x"),
        (lambda meta: meta.update(fl_x=-1.0), "focal lengths > 0"),
        (lambda meta: meta.update(k1=float("nan")), "wanted finite numbers"),
        (lambda meta: meta["frames"][1].update(boxes_3d=[{"size": [1, 1, 1]}]), r"01\.png: a field is missing.*pose"),
    ],
)
def test_bad_captures_are_refused_with_what_is_wrong(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        read_captures(folder)


def test_points_come_from_ply_as_well(tmp_path):
    rows = np.zeros(7, dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = np.arange(21).reshape(7, 3), np.arange(21).reshape(7, 3) * 10
    names = [f"property float {c}" for c in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    head = ["ply", "format binary_little_endian 1.0", "element vertex 7", *names, "end_header", ""]
    (tmp_path / "points.ply").write_bytes("\n".join(head).encode() + rows.tobytes())
    points, colours = read_points(tmp_path / "points.ply")
    np.testing.assert_array_equal(points, rows["xyz"])
    np.testing.assert_allclose(colours, rows["rgb"] / 255, atol=1e-6)
    np.save(tmp_path / "points.npy", np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="not finite"):
        read_points(tmp_path / "points.npy")
    with pytest.raises(ValueError, match="no such file"):
        read_points(tmp_path / "none.ply")


def test_without_points_they_begin_where_most_cameras_look(folder):
    rewrite(folder, lambda meta: meta.pop("ply_file_path"))
    parameters, result, _ = fit(settings(folder, steps=2, random_points=300))
    assert parameters["means"].shape == (300, 3) and np.isfinite(result["psnr_db"])
    captures = read_captures(folder)
    points, colours = random_points(captures, 300, 0)
    assert points.shape == colours.shape == (300, 3) and 0 <= colours.min() <= colours.max() <= 1
    rays = np.einsum("mij,nj->mni", captures.viewmats, np.pad(points, ((0, 0), (0, 1)), constant_values=1))[..., :3]
    inside = (np.abs(rays[..., :2]) < rays[..., 2:] * [32 / 60, 24 / 60]).all(axis=-1)
    assert (inside.sum(axis=0) > VIEWS / 2).all()


def test_the_command_writes_a_ply_of_what_was_fitted(folder):
    formats = pytest.importorskip("senna2_sim.formats")
    args = settings(folder, steps=3)
    result = run.main(args)
    assert json.loads((args.out / "fit.json").read_text())["psnr_db"] == result["psnr_db"]
    parameters, _, _ = fit(replace(args, resume=True))
    read, wanted = formats.load_gaussians(args.out / "point_cloud.ply"), to_gaussians(parameters)
    for name in ("means", "scales", "opacities", "sh"):
        np.testing.assert_allclose(getattr(read, name), getattr(wanted, name), atol=1e-5)


def control_once(parameters, screen, config, step=10):
    optimizers = make_optimizers(parameters)
    sum(value.square().sum() for value in parameters.values()).backward()
    for optimizer in optimizers.values():
        optimizer.step()
    return optimizers, control(config, parameters, optimizers, screen, step, 100, 1.0, 0)


def four(scale, opacity=0.5):
    """Four Gaussians a unit apart."""
    parameters = first_parameters(np.eye(4, 3) * 1.0, np.full((4, 3), 0.5), 1, 1.0)
    with torch.no_grad():
        parameters["scales"].fill_(np.log(scale))
        parameters["opacities"].fill_(np.log(opacity / (1 - opacity)))
    return parameters


CONFIG = DensityConfig(start=0, every=10, reset_every=1000, stop=1.0)


def test_steep_small_gaussians_are_cloned_and_steep_large_ones_split():
    steep = torch.tensor([[1.0, 2.0], [1e-4, 1.0], [0.0, 0.0], [3e-4, 2.0]])  # means 0.5, 1e-4, 0, 1.5e-4
    parameters = four(0.005)
    optimizers, screen = control_once(parameters, steep, CONFIG)
    assert screen.shape == (5, 2) and not screen.any()
    unique, counts = torch.unique(parameters["scales"][:, 0].round(decimals=3), return_counts=True)
    assert len(unique) == 1 and counts[0] == 5
    first = optimizers["means"].state[parameters["means"]]["exp_avg"]
    assert first.shape == (5, 3) and (first == 0).all(dim=1).sum() >= 1  # Adam starts anew for the clone
    parameters = four(0.05)
    before = parameters["scales"].detach().clone()
    control_once(parameters, steep, CONFIG)
    narrower = parameters["scales"].detach()[:, 0] < before[0, 0] - 0.4
    assert len(narrower) == 5 and narrower.sum() == 2
    assert torch.allclose(parameters["scales"].detach()[narrower].exp() * 1.6, torch.tensor(0.05), rtol=0.02)


def test_growth_ends_at_the_limit_with_the_steepest_first():
    parameters = four(0.005)
    with torch.no_grad():
        parameters["sh0"][:] = torch.arange(4.0)[:, None, None] + 10
    steep = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 1.0]])
    control_once(parameters, steep, replace(CONFIG, max_gaussians=5))
    assert parameters["sh0"].detach()[:, 0, 0].round().sort().values.tolist() == [10, 11, 12, 13, 13]


def test_faint_gaussians_vanish_and_a_reset_leaves_all_faint():
    parameters = four(0.005)
    with torch.no_grad():
        parameters["opacities"][:2] = -8.0
    control_once(parameters, torch.zeros(4, 2), CONFIG)
    assert len(parameters["means"]) == 2
    optimizers, _ = control_once(parameters := four(0.005), torch.zeros(4, 2), replace(CONFIG, reset_every=10))
    assert (parameters["opacities"].sigmoid() <= 0.01 + 1e-6).all() and len(parameters["means"]) == 4
    assert not optimizers["opacities"].state[parameters["opacities"]]["exp_avg"].any()
    with pytest.raises(ValueError, match="all 4 Gaussians"):
        control_once(four(0.005, opacity=1e-4), torch.zeros(4, 2), CONFIG)


def test_replaced_rows_keep_their_momentum():
    parameters = four(0.01)
    optimizers, _ = control_once(parameters, torch.zeros(4, 2), CONFIG, step=3)
    before = optimizers["sh0"].state[parameters["sh0"]]["exp_avg"].clone()
    new = {name: value.detach()[:1] for name, value in parameters.items()}
    replace_rows(parameters, optimizers, torch.tensor([3, 1]), new)
    after = optimizers["sh0"].state[parameters["sh0"]]["exp_avg"]
    assert torch.equal(after[:2], before[[3, 1]]) and not after[2].any()


def test_ssim_is_one_for_equals_and_as_published_otherwise():
    rng = np.random.default_rng(0)
    a = torch.tensor(rng.uniform(size=(20, 30, 3)), dtype=torch.float32)
    b = (a + 0.1 * torch.tensor(rng.normal(size=a.shape), dtype=torch.float32)).clamp(0, 1)
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-5)
    # equation 13 of the paper, window by window
    axis = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(axis, axis) / axis.sum() ** 2
    values = []
    for row in range(10):
        for column in range(20):
            for channel in range(3):
                x, y = (p[row : row + 11, column : column + 11, channel].double().numpy() for p in (a, b))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cross = (window * (x - mx) * (y - my)).sum()
                values.append((2 * mx * my + 1e-4) * (2 * cross + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert float(ssim(a, b)) == pytest.approx(np.mean(values), abs=1e-5)


def test_windows_are_the_same_on_every_device():
    image = torch.tensor(np.random.default_rng(2).uniform(size=(13, 30, 3)), dtype=torch.float32)
    assert torch.allclose(_blur(image), _filter(image), atol=1e-6)


def test_the_gradient_of_ssim_is_its_slope():
    rng = np.random.default_rng(1)
    a, b = (torch.tensor(rng.uniform(size=(14, 17, 3)), dtype=torch.float32) for _ in range(2))
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(ssim(a, b), a)
    step = gradient / gradient.norm() * 0.02
    slope = float(ssim(a.detach() + step, b) - ssim(a.detach() - step, b)) / 2
    assert slope == pytest.approx(float((gradient * step).sum()), rel=0.02)


def test_psnr_counts_only_what_is_not_masked():
    a, b = torch.zeros(4, 5, 3), torch.full((4, 5, 3), 0.1)
    b[0] = 1.0
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[0] = False
    assert psnr(a, b, mask) == pytest.approx(20, abs=1e-3)


# gsplat's strategies are plain torch: with our rasterizer in the place of its kernels they are tested without a GPU.


class Tap(torch.autograd.Function):
    """Means as they are; backwards, what our rasterizer adds to `screen` becomes gsplat's means2d.grad and radii."""

    @staticmethod
    def forward(ctx, means, means2d, screen, radii, width):
        ctx.screen, ctx.radii, ctx.width = screen, radii, width
        return means.clone()

    @staticmethod
    def backward(ctx, gradient):
        steepness, seen = ctx.screen.T
        ctx.radii[:] = seen[None, :, None]
        flat = torch.stack([steepness / (ctx.width / 2), torch.zeros_like(steepness)], dim=-1)
        return gradient, flat[None], None, None, None


def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height, *, sh_degree, packed):
    """gsplat.rasterization by ours: one camera, with what DefaultStrategy reads."""
    assert not packed and colors.shape[1] == (sh_degree + 1) ** 2 and len(viewmats) == 1
    count = len(means)
    screen, radii = torch.zeros(count, 2), torch.zeros(1, count, 2)
    means2d = torch.zeros(1, count, 2, requires_grad=True) * 1.0
    tapped = Tap.apply(means, means2d, screen, radii, width)
    rgb, _, alpha = rasterize(tapped, quats, scales, opacities, colors, viewmats, Ks, width, height, screen=screen)
    info = {"means2d": means2d, "radii": radii, "gaussian_ids": None, "width": width, "height": height, "n_cameras": 1}
    return rgb, alpha, info


@pytest.fixture
def gsplat(monkeypatch):
    """Fits use gsplat's strategies from here on, on the CPU."""
    monkeypatch.setattr(pytest.importorskip("gsplat"), "rasterization", rasterization)

    def make(args, radius, screen):
        return GsplatEngine(args.density, args.steps, radius, args.seed, screen, device="cpu")

    monkeypatch.setattr(run, "make_engine", make)


STRATEGY = DensityConfig(start=4, every=5, reset_every=15, stop=0.9, grow_gradient=1e-5, grow_scale=0.02)


def test_the_place_of_gsplat_is_called_as_gsplat_is():
    gsplat = pytest.importorskip("gsplat")
    real = inspect.signature(gsplat.rasterization).parameters
    for index, (name, parameter) in enumerate(inspect.signature(rasterization).parameters.items()):
        assert name in real and (parameter.kind == parameter.KEYWORD_ONLY or list(real)[index] == name)


def test_gsplats_strategy_and_ours_agree_on_whom_to_multiply_and_whom_to_drop(folder, gsplat, monkeypatch):
    """Up to the first refinement every number is the same; it leaves the same Gaussians, but for the halves' noise."""
    args = settings(folder, steps=5, density=replace(STRATEGY, prune_opacity=0.12, stop=1.0))
    theirs, _, _ = run.fit(args)
    monkeypatch.setattr(run, "make_engine", lambda a, r, s: CpuEngine(a.density, a.steps, r, a.seed, s))
    ours, _, _ = run.fit(replace(args, out=folder / "ours"))
    assert len(ours["means"]) == len(theirs["means"]) != 400
    for name in ("quats", "scales", "opacities", "sh0"):
        a, b = (x[name].detach().reshape(len(x[name]), -1).sort(dim=0).values for x in (ours, theirs))
        assert torch.allclose(a, b, atol=1e-5), name


def test_statistics_are_what_our_rasterizer_counts(folder, gsplat, monkeypatch):
    screens = []
    monkeypatch.setattr(run, "_save", lambda args, p, o, screen, step, result: screens.append(screen.clone()))
    args = settings(folder, steps=4, density=DensityConfig(stop=1.0))
    run.fit(args)
    monkeypatch.setattr(run, "make_engine", lambda a, r, s: CpuEngine(a.density, a.steps, r, a.seed, s))
    run.fit(args)
    assert screens[0].shape == (400, 2) and screens[0].min() >= 0 and screens[0][:, 1].max() == 4
    assert torch.allclose(*screens, rtol=1e-5)


def test_opacities_are_reset_when_it_is_time(folder, gsplat):
    quiet = replace(STRATEGY, grow_gradient=1e9, stop=1.0)
    parameters, _, _ = run.fit(settings(folder, steps=15, density=quiet))
    assert (parameters["opacities"].sigmoid() <= 2 * quiet.prune_opacity + 1e-6).all()
    later, _, _ = run.fit(settings(folder, steps=15, density=replace(quiet, stop=0.5), out=folder / "later"))
    assert later["opacities"].sigmoid().max() > 0.1


def test_growth_ends_at_the_limit(folder, gsplat):
    free, _, _ = run.fit(settings(folder, steps=12, density=STRATEGY))
    bounded, _, _ = run.fit(settings(folder, steps=12, density=replace(STRATEGY, max_gaussians=450), out=folder / "b"))
    assert len(free["means"]) > 500
    assert 400 < len(bounded["means"]) <= 460  # the limit is drawn one step before the last statistics


def test_a_fit_without_gaussians_says_why(folder, gsplat):
    with pytest.raises(ValueError, match=r"all Gaussians are under opacity 0\.9"):
        run.fit(settings(folder, steps=6, density=replace(STRATEGY, prune_opacity=0.9)))


def test_an_interrupted_fit_ends_as_if_it_had_not_been(folder, gsplat, monkeypatch):
    args = settings(folder, steps=18, density=STRATEGY, out=folder / "whole")
    whole, _, _ = run.fit(args)
    calls = []

    def interrupted(*inputs):
        calls.append(1)
        if len(calls) == 8:
            signal.raise_signal(signal.SIGINT)
        return photometric(*inputs)

    monkeypatch.setattr(run, "photometric", interrupted)
    _, _, finished = run.fit(replace(args, out=folder / "parts"))
    assert not finished
    resumed, _, finished = run.fit(replace(args, out=folder / "parts", resume=True))
    assert finished and len(whole["means"]) > 400
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
