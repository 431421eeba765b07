"""What the VLM is asked in training: front frames with the right decision and, in words, the reason for it.

Labels come from the recording itself: the decision is what the expert's plan (or what was driven) shows, see
`training.data.Drive.decisions`; the reason, and what each image token shows, are built from the true boxes around the
car, and the true lights, paddles and signs where the bag tells them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from senna2_core.actions import UNKNOWN, Decision
from senna2_core.geometry import wrap_angle
from senna2_core.messages import read_image
from senna2_core.objects import EGO, Category, Navigation, Objects, SignalKind, Signals
from senna2_core.polyline import Polyline
from senna2_sim.rig import Camera
from senna2_vlm import prompt
from senna2_vlm.decide import Seen
from training.data import DT_S, Drive, Target, balanced, find_bags, load_drive
from training.sights import LANE_HALF_WIDTH_M, SIGNAL_RANGE_M, closing_rates, nearest_shown, signals_shown

LOOK_AHEAD_M = 80.0  # for the road user next ahead
BRAKES_MPS2 = -0.8
CROSSES_S, CROSSES_MPS = 3.0, 0.5  # who walks or rides onto the way within this time, faster than this, crosses it
NAMED = (Category.PEDESTRIAN, Category.CYCLIST, Category.OBSTACLE)  # their tokens say what they are, not how far
CLOSING = 0.1  # 1/s
WARNINGS = (SignalKind.WORKS, SignalKind.ROUNDABOUT)  # signs that are no reason for anything by themselves


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """One front frame with what is asked and what is right."""

    frame: Any  # compressed image message
    before: Any  # that of `Sampling.frame_lag_s` before; None: there is none
    navigation: Navigation
    speed_mps: float
    decision: Decision
    reason: str
    sights: list[str]  # what each image token shows
    seen: Seen | None = None  # what a vision tower that does not learn made of the image

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB; (2, H, W, 3) with the frame before."""
        return as_pair(self.frame, self.before)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a drive are asked about, and how they are labelled."""

    camera: Camera  # the front one
    grid: tuple[int, int]  # rows and columns of image tokens
    target: Target  # whose trajectory is the truth, see `training.data.Drive.target`
    frame_lag_s: float  # how long before a frame the VLM sees another one; 0: it sees one
    fps: float  # frames per second of the drive; the offset of the first one is drawn
    seed: int  # of the offset


def read_questions(bags: Path, split: Literal["training", "validation"], sampling: Sampling) -> list[Question]:
    """Questions of all clips of a split, as `clip_questions` gives them. ValueError: no such clips."""
    progress = tqdm(find_bags(bags, split), desc=f"{split} frames", unit="bag", mininterval=1.0)
    return [question for bag in progress for question in clip_questions(bag, sampling)]


def clip_questions(bag: Path, sampling: Sampling) -> list[Question]:
    """Questions of one bag, read by `training.data.load_drive`; frames of unknown speed action are left out."""
    drive = load_drive(bag)
    future, labels = drive.target(sampling.target), drive.decisions(sampling.target)
    stride = max(1, round(1 / (DT_S * sampling.fps)))
    lag = round(sampling.frame_lag_s / DT_S)
    first = int(np.random.default_rng([sampling.seed, *bag.name.encode()]).integers(stride))
    questions = []
    for step in range(first, len(drive), stride):
        if labels[step, 0] == UNKNOWN:
            continue
        ego = drive.ego[step]
        agents = drive.truth[step].agents.in_frame(ego.pose)
        signals = (Signals.empty() if drive.signals is None else drive.signals[step]).in_frame(ego.pose)
        questions.append(
            Question(
                frame=drive.frames["front"][step],
                before=drive.frames["front"][step - lag] if 0 < lag <= step else None,
                navigation=drive.navigation[step],
                speed_mps=ego.speed_mps,
                decision=Decision(*labels[step]),
                reason=reason(agents, accelerations(drive, step), future[step], ego.speed_mps, signals),
                sights=sights(agents, sampling.camera, sampling.grid, ego.speed_mps, signals),
            )
        )
    return questions


def as_pair(frame: Any, before: Any) -> np.ndarray:
    """What `DecisionModel.decide` takes, from messages; before may be None."""
    image = read_image(frame)
    return image if before is None else np.stack([read_image(before), image])


def accelerations(drive: Drive, step: int) -> np.ndarray:
    """(N,) m/s^2 along the way, of the agents at a step: the change of their speed from 0.2 s before to 0.2 s after."""
    before, after = (
        dict(zip(agents.ids.tolist(), np.hypot(*agents.velocities.T).tolist(), strict=True))
        for agents in (drive.truth[max(step - 2, 0)].agents, drive.truth[min(step + 2, len(drive) - 1)].agents)
    )
    return np.array([(after.get(i, 0) - before.get(i, after.get(i, 0))) / 0.4 for i in drive.truth[step].agents.ids])


def reason(
    objects: Objects, accelerations_mps2: np.ndarray, future: np.ndarray, speed_mps: float,
    signals: Signals | None = None,
) -> str:  # fmt: skip
    """The signal that binds next, then the road user next ahead on the way to be driven, each with how far it is and
    what it says or does; or that the road is clear.

    Vehicles count when they drive along the way, people and cyclists also when they cross it, obstacles always.

    Args:
        objects: true boxes in base_link, velocities over ground.
        accelerations_mps2: of the objects, (N,), along their way.
        future: next poses of the ego (40, 3) in base_link.
        speed_mps: own speed.
        signals: lights, paddles and signs.
    """
    yaw = future[-1, 2]
    end = future[-1, :2] + LOOK_AHEAD_M * np.array([np.cos(yaw), np.sin(yaw)])
    way = Polyline(np.vstack([[[0, 0]], future[9::10, :2], [end]]))
    station, offset = way.project(objects.boxes[:, :2])
    gap = station - EGO.length_m + EGO.rear_overhang_m - objects.boxes[:, 3] / 2
    heading = way.at(station)[:, 2]
    along = np.abs(wrap_angle(objects.boxes[:, 2] - heading)) < np.pi / 2
    leftwards = (objects.velocities * np.stack([-np.sin(heading), np.cos(heading)], axis=1)).sum(1)
    soon = offset + CROSSES_S * leftwards
    within = np.abs(offset) < LANE_HALF_WIDTH_M
    crosses = (
        np.isin(objects.categories, NAMED[:2])
        & (np.abs(leftwards) > CROSSES_MPS)
        & (within | (np.abs(soon) < LANE_HALF_WIDTH_M) | (soon * offset < 0))
    )
    still = within & (objects.categories == Category.OBSTACLE)
    ahead = ((along & within) | crosses | still) & (gap > 0) & (gap < LOOK_AHEAD_M)
    binding = "" if signals is None else next_signal(signals)
    if not ahead.any():
        return binding or prompt.reason()
    nearest = int(np.argmin(np.where(ahead, gap, np.inf)))
    speed = float(np.hypot(*objects.velocities[nearest]))
    if crosses[nearest]:
        verb = "crosses"
    elif speed < 0.5:
        verb = "stands"
    elif accelerations_mps2[nearest] < BRAKES_MPS2:
        verb = "brakes"
    elif abs(speed - speed_mps) <= 1.0:
        verb = "drives"
    else:
        verb = "is slower" if speed < speed_mps else "is faster"
    who = prompt.reason(Category(int(objects.categories[nearest])).name.lower(), float(gap[nearest]), verb)
    return f"{binding} {who}".strip()


def next_signal(signals: Signals) -> str:
    """The nearest signal that binds, within SIGNAL_RANGE_M, in words; empty when there is none."""
    gaps = np.where(np.isin(signals.kinds, WARNINGS), np.inf, signals.gaps_m)
    if not (gaps <= SIGNAL_RANGE_M).any():
        return ""
    nearest = int(np.argmin(gaps))
    return prompt.signal(SignalKind(int(signals.kinds[nearest])), float(gaps[nearest]))


def sights(
    objects: Objects, camera: Camera, grid: tuple[int, int], speed_mps: float = 0.0, signals: Signals | None = None
) -> list[str]:
    """What each of the rows x columns image tokens shows, row-major, in one word each; signals before road users.

    Args:
        objects: true boxes in base_link, velocities over ground.
        speed_mps: own speed; whose distance shrinks by over CLOSING of itself in a second, is told as closing.
    """
    named = {int(kind): kind.name.lower() for kind in NAMED}
    gaps, who = nearest_shown(objects, camera, grid)
    what = [named.get(int(kind), "") for kind in np.append(objects.categories, 0)[who.ravel()]]
    closing = np.append(closing_rates(objects, speed_mps, camera) < -CLOSING, False)[who.ravel()]
    words = [prompt.sight(*shown) for shown in zip(gaps.ravel(), what, closing, strict=True)]
    if signals is not None:
        for token, index in enumerate(signals_shown(signals, camera, grid).ravel()):
            if index >= 0:
                words[token] = prompt.SIGNALS[SignalKind(int(signals.kinds[index]))][2]
    return words


def draw_weights(questions: list[Question], balance: float) -> np.ndarray:
    """Probability (N,) to draw each question: a decision for the sake of something (what the reason names) that was
    seen n times gets a share of n ** (1 - balance). Recorded, one frame in eighty is about people who cross."""
    subjects = [question.reason.split()[1] if question.reason else "" for question in questions]
    _, whom = np.unique(subjects, return_inverse=True)
    return balanced(np.stack([[question.decision.index for question in questions], whom], axis=1), balance)
