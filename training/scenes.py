"""Drives -> batches of short sequences for perception and planner. B sequences of T frames, a memory lag apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from senna2_core.geometry import to_frame
from senna2_core.objects import EGO, MapElements, MapKind, Objects
from senna2_core.polyline import Polyline
from senna2_perception.config import PerceptionConfig
from senna2_perception.cues import CueTargets
from senna2_perception.encoder import token_grid
from senna2_perception.heads import Targets
from senna2_perception.preprocess import ego_features, navigation_features, stack_images
from senna2_sim.rig import Rig
from training.data import DT_S, Drive, Target, clip_polylines
from training.sights import LANE_HALF_WIDTH_M, closing_rates, ground_shown, nearest_shown


@dataclass
class SceneBatch:
    """What `PerceptionNetwork.sequence` takes, and what it and the planner should answer."""

    images: Tensor  # (B, T, V, H, W, 3) uint8
    ego: Tensor  # (B, T, 2)
    navigation: Tensor  # (B, T, 8)
    poses: Tensor  # (B, T, L, 3) past base_links seen from the present one
    ages_s: Tensor  # (B, T, L)
    valid: Tensor  # (B, T, L) bool
    truth: Targets  # of B * T samples
    trajectory: Tensor  # (B * T, 40, 3)
    speed_mps: Tensor  # (B * T,)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of `PerceptionNetwork.sequence`."""
        return self.images, self.ego, self.navigation, self.poses, self.ages_s, self.valid

    def to(self, device: str) -> "SceneBatch":
        """On another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "truth"}
        cues = CueTargets(**{k: v.to(device) for k, v in vars(self.truth.cues).items()})
        boxes = {k: v.to(device) for k, v in vars(self.truth).items() if k != "cues"}
        return SceneBatch(**moved, truth=Targets(**boxes, cues=cues))


LANE_RANGE_M = 8.0  # the ground is asked for its place beside the route within this
LEARNED_KINDS = [kind for kind in MapKind if kind != MapKind.LANE_CENTER]  # lane centres cannot be seen


def stride(config: PerceptionConfig) -> int:
    """Steps between the frames of a sequence; the lags must be its multiples, in order."""
    steps = round(config.memory_lags_s[0] / DT_S)
    if not np.allclose(config.memory_lags_s, DT_S * steps * np.arange(1, len(config.memory_lags_s) + 1)):
        raise ValueError(f"memory_lags_s: got {config.memory_lags_s}, training needs 1, 2, ... times the first one")
    return steps


def make_batch(
    drives: Sequence[Drive], starts: np.ndarray, frames: int, config: PerceptionConfig, kind: Target, rig: Rig
) -> SceneBatch:
    """Sequences that begin at starts (B, 2) (drive, step) and take `frames` frames each, as seen by the rig."""
    gap = stride(config)
    picked = [[(drives[d], int(step) + gap * t) for t in range(frames)] for d, step in starts]
    flat = [pair for row in picked for pair in row]
    return SceneBatch(
        **scene_inputs(picked, config),
        truth=_targets(flat, config, rig),
        trajectory=torch.from_numpy(np.stack([d.target(kind)[s] for d, s in flat])).float(),
        speed_mps=torch.tensor([d.ego[s].speed_mps for d, s in flat], dtype=torch.float32),
    )


def scene_inputs(picked: Sequence[Sequence[tuple[Drive, int]]], config: PerceptionConfig) -> dict[str, Tensor]:
    """Arguments of `PerceptionNetwork.sequence` for B sequences of T steps, a memory lag apart.

    ValueError: perception cannot use what was recorded at a step; it names bag and step.
    """
    flat, shape = [pair for row in picked for pair in row], (len(picked), len(picked[0]))
    pose = np.stack([[drive.poses[step] for drive, step in row] for row in picked])  # (B, T, 3)
    past = np.stack([np.roll(pose, lag + 1, axis=1) for lag in range(len(config.memory_lags_s))], axis=2)
    seen = zip(*(_frame(config, drive, step) for drive, step in flat), strict=True)
    inputs = dict(zip(("images", "ego", "navigation"), map(np.stack, seen), strict=True))
    return {name: torch.from_numpy(value).unflatten(0, shape) for name, value in inputs.items()} | {
        "poses": torch.from_numpy(to_frame(past, pose[:, :, None])).float(),
        "ages_s": torch.tensor(config.memory_lags_s, dtype=torch.float32).expand(past.shape[:3]),
        "valid": torch.ones(past.shape[:3], dtype=torch.bool),
    }


def _frame(config: PerceptionConfig, drive: Drive, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (V, H, W, 3) uint8, ego (2,) and navigation (8,) float32 of one step."""
    images = drive.images(step)
    try:
        return stack_images(config, images), ego_features(drive.ego[step]), navigation_features(drive.navigation[step])
    except ValueError as error:
        raise ValueError(f"{drive.name}: step {step}: {error}; see training.doctor, or record the bag again") from error


def _targets(flat: Sequence[tuple[Drive, int]], config: PerceptionConfig, rig: Rig) -> Targets:
    """Agents and map elements inside the window, the nearest when there are more than queries."""
    window = (config.range_front_m, config.range_rear_m, config.range_side_m)
    visible = {id(drive): _select(drive.map, LEARNED_KINDS) for drive, _ in flat}
    agents, elements, cues = [], [], []
    for drive, step in flat:
        local = drive.truth[step].agents.in_frame(drive.poses[step])
        x, y = local.boxes[:, 0], local.boxes[:, 1]
        cues.append(_cues(local, drive, step, config, rig))
        inside = np.flatnonzero((x <= window[0]) & (x >= -window[1]) & (np.abs(y) <= window[2]))
        nearest = inside[np.argsort(np.hypot(x, y)[inside], kind="stable")][: config.agent_queries]
        agents.append(local.select(nearest))
        elements.append(
            clip_polylines(visible[id(drive)], drive.poses[step], window, config.map_points, config.map_queries)
        )
    most_agents = max([1, *(len(a) for a in agents)])
    most_elements = max([1, *(len(kinds) for kinds, _ in elements)])
    truth = Targets(
        categories=torch.full((len(flat), most_agents), -1),
        boxes=torch.zeros(len(flat), most_agents, 7),
        kinds=torch.full((len(flat), most_elements), -1),
        points=torch.zeros(len(flat), most_elements, config.map_points, 2),
        cues=CueTargets(*(torch.from_numpy(np.stack(part)).float() for part in zip(*cues, strict=True))),
    )
    for row, (a, (kinds, points)) in enumerate(zip(agents, elements, strict=True)):
        truth.categories[row, : len(a)] = torch.from_numpy(a.categories)
        truth.boxes[row, : len(a)] = torch.from_numpy(np.concatenate([a.boxes, a.velocities], axis=1)).float()
        truth.kinds[row, : len(kinds)] = torch.from_numpy(kinds)
        truth.points[row, : len(kinds)] = torch.from_numpy(points).float()
    return truth


def _cues(agents: Objects, drive: Drive, step: int, config: PerceptionConfig, rig: Rig) -> tuple[np.ndarray, ...]:
    """Sights, rates and lanes (I,), route (R, 2) and leader (2,) of CueTargets; agents in base_link."""
    grid, speed = token_grid(config), drive.ego[step].speed_mps
    sights, rates = [], []
    for camera in (rig[name] for name in config.cameras):
        distances, who = nearest_shown(agents, camera, grid)
        sights.append(distances.ravel())
        rates.append(np.append(closing_rates(agents, speed, camera), 0.0)[who.ravel()])
    route = Polyline(_select(drive.map, [MapKind.ROUTE]).in_frame(drive.poses[step]).points[0])
    here = route.project(np.zeros(2))[0]
    points = route.at(here + np.array(config.route_stations_m))[:, :2]
    ground = np.concatenate([ground_shown(rig[name], grid) for name in config.cameras])
    shown = np.isfinite(ground[:, 0])
    lanes = np.full(len(ground), np.nan)
    lanes[shown] = route.project(ground[shown])[1]
    lanes[~(np.abs(lanes) < LANE_RANGE_M)] = np.nan
    seen = np.concatenate(sights), np.concatenate(rates), lanes, points
    station, offset = route.project(agents.boxes[:, :2])
    gap = station - here - agents.boxes[:, 3] / 2 - (EGO.length_m - EGO.rear_overhang_m)
    leads = np.flatnonzero((np.abs(offset) < LANE_HALF_WIDTH_M) & (gap > 0) & (gap < config.range_front_m))
    if not len(leads):
        return *seen, np.array([np.inf, 0.0])
    nearest = leads[np.argmin(gap[leads])]
    heading = route.at(station[nearest])[2]
    along = agents.velocities[nearest] @ [np.cos(heading), np.sin(heading)]
    return *seen, np.array([gap[nearest], speed - along])


def _select(elements: MapElements, kinds: Sequence[MapKind]) -> MapElements:
    which = np.flatnonzero(np.isin(elements.kinds, kinds))
    return MapElements(elements.kinds[which], tuple(elements.points[i] for i in which), elements.scores[which])


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training spoils on purpose. Without it the network copies its own motion instead of looking (copycat)."""

    speed_noise_mps: float = 0.4  # on the speed that perception is told; the planner's reference stays exact
    ego_dropout: float = 0.4  # share of frames that do not know their speed
    memory_dropout: float = 0.2  # share of frames that do not remember
    target_dropout: float = 0.4  # share of sequences without the navigation's target point: 40 m ahead on the route, it
    target_noise_m: float = (
        1.0  # ... and its noise. An easy answer to where the lane runs, and a wrong one off the lane
    )
    gain: float = 0.2  # image contrast, +-
    bias: float = 20.0  # image brightness, +-, of 255
    colour: float = 0.25  # of each colour channel, +-: a leader must be known by more than its paint


@dataclass(frozen=True, kw_only=True)
class SceneTraining:
    """Options that the stages which train perception and planner share."""

    preset: Literal["small", "full"] = "small"
    """Where the other settings come from."""
    bags: Path = Path("bags")
    """Folder of bags (make bags)."""
    resume: bool = False
    """Go on where the run folder stopped, if it did; the result is the same as without the stop."""
    rig: str = "small"
    """Cameras that the bags were recorded with."""
    target: Target = "plan"
    """What the planner imitates: the expert's plan, or the driven odometry."""
    batch: int = 8
    """Sequences per step, of all processes."""
    micro_batch: int = 8
    """Sequences that a process looks at at once; gradients are accumulated until the batch is through."""
    balance: float = 0.5
    """0: what the last frame of a sequence asks for (speed action, path) as often as recorded, 1: all equally often."""
    frames: int = 4
    """Frames per sequence, a memory lag (0.5 s) apart."""
    draws: int = 4
    """Noise levels per frame in the diffusion loss."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this."""
    perception_weight: float = 0.3
    """Of the perception losses beside the diffusion loss."""
    validate_every: int = 250
    """Steps between validations; progress is saved then, too."""
    validation_sequences: int = 128
    """How many validation sequences are looked at."""
    seed: int = 0
    """Of everything random."""
    bf16: bool = False
    """Matrix products and convolutions in bfloat16, weights stay float32. Slow on CPUs."""
    workers: int = 0
    """Processes that make batches beside the training; the result does not depend on it."""
    threads: int = 1
    """Of torch."""
    device: str = "cpu"
    """Torch device; with several processes, cuda gives each its own."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """What is spoiled on purpose."""


def augment(batch: SceneBatch, how: Augmentation, generator: torch.Generator) -> SceneBatch:
    """A spoiled copy; the truth stays."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    b, t, v = batch.images.shape[:3]
    target = batch.navigation[..., 5:7] + how.target_noise_m / 40.0 * torch.randn(b, t, 2, generator=generator)
    target = target * (uniform(b, 1, 1) >= how.target_dropout)
    speed = batch.ego[..., :1] + how.speed_noise_mps / 15.0 * torch.randn(b, t, 1, generator=generator)
    known = uniform(b, t, 1) >= how.ego_dropout
    gain = 1 + how.gain * (2 * uniform(b, 1, v, 1, 1, 1) - 1)
    gain = gain * (1 + how.colour * (2 * uniform(b, 1, 1, 1, 1, 3) - 1))
    bias = how.bias * (2 * uniform(b, 1, v, 1, 1, 1) - 1)
    return replace(
        batch,
        ego=torch.cat([speed, batch.ego[..., 1:]], dim=-1) * known,
        navigation=torch.cat([batch.navigation[..., :5], target, batch.navigation[..., 7:]], dim=-1),
        valid=batch.valid & (uniform(b, t, 1) >= how.memory_dropout),
        images=(batch.images.float() * gain + bias).clamp(0, 255),
    )
