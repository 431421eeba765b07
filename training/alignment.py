"""Marks and losses that bring decision and plan together (Senna-2 3.2.2, 3.2.3, A.1.2, A.1.3). Pure functions.

Plans are (B, S, 3) x m, y m, yaw rad in base_link, point k at (k + 1) * 0.1 s; the pose at 0 s is the origin. Decisions
are codes: SpeedAction and DirectionAction (B,), or `Decision.index` 0..19. sg() is the stop-gradient.

Where the paper is silent: a label or plan without a clear speed action (UNKNOWN) is right about any. In L_safe the
first point is pulled to the origin, where the car is; in L_eff the last one is pushed to where the plan would go on,
straight at its last speed. Yaw takes part with x and y: a step down the gradient moves all three by the same share of
their way to the neighbour, so that the plan is driven earlier or later and not reshaped, and no weight between m and
rad is needed. What stands cannot be pushed: the successor of a standing plan is where it stands.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from senna2_core.actions import (
    ALL_DECISIONS,
    UNKNOWN,
    Decision,
    DirectionAction,
    PathClass,
    SpeedAction,
    direction_of,
)
from senna2_core.consistency import consistent_codes
from senna2_core.kinematics import kinematic_mapping

UNSAFE_TTC_S = 3.0  # A.1.3
SLOW_SHARE = 0.8  # "substantially below": less than this share of both the expert's speed and the limit. Ours
BEHIND_M = 1.0  # and further than this behind the expert. Ours
EVERY = 4  # A.1.3: one frame in four is trained on


# -- stage 2 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shown:
    """What B plans do (f_K), beside what was decided; all (B,)."""

    speed: np.ndarray  # SpeedAction codes, UNKNOWN where no action is clear
    path: np.ndarray  # PathClass codes
    consistent: np.ndarray  # bool, C(tau, d) of eq. 4


def shown(plans: Tensor, speed: Tensor, direction: Tensor) -> Shown:
    """f_K of plans (B, S, 3) against decisions: SpeedAction codes (B,), DirectionAction codes (B,). No gradient."""
    does, path = kinematic_mapping(plans.detach().float().cpu().numpy())
    return Shown(does, path, consistent_codes(does, path, speed.cpu().numpy(), direction.cpu().numpy()))


def gate(seen: Shown) -> Tensor:
    """1 - C(tau, d) of eq. 5, (B,) float: 1 where a plan does not do what was decided."""
    return torch.from_numpy(~seen.consistent).float()


def open_loop_loss(gates: Tensor, e2e: Tensor, vlm: Tensor, gamma: float, of: int) -> Tensor:
    """Stage 2, a scalar: 1 / N sum (1 - C) (L_E2E + gamma L_VLM) (eq. 5).

    Args:
        gates: (B,), as `gate` gives them.
        e2e, vlm: (B,) losses per sample.
        gamma: weight of L_VLM.
        of: N, samples in the whole batch. Those whose gate is 0 may be left out of B: the result is the same.
    """
    return (gates * (e2e + gamma * vlm)).sum() / of


def label_loss(log_probabilities: Tensor, speed: Tensor, direction: Tensor) -> Tensor:
    """L_VLM (B,) = -log P(label | Q) (eq. 2); where the label's speed is UNKNOWN, of all answers with its direction.

    Args:
        log_probabilities: (B, 20) of the answers, as `DecisionModel.score` gives them.
        speed, direction: (B,) codes of the label; speed may be UNKNOWN.
    """
    answers = torch.tensor([(d.speed, d.direction) for d in ALL_DECISIONS], device=log_probabilities.device)
    speed, direction = (codes.to(answers.device)[:, None] for codes in (speed, direction))
    right = (answers[:, 1] == direction) & ((answers[:, 0] == speed) | (speed == UNKNOWN))
    return -log_probabilities.masked_fill(~right, -torch.inf).logsumexp(1)


def shown_decisions(decided: Tensor, speed: Tensor, direction: Tensor) -> Tensor:
    """The decisions (B,), as `Decision.index`, that the expert's trajectory shows: the label's, but the VLM's own speed
    action where the label's is UNKNOWN.

    Args:
        decided: (B,) `Decision.index` of the VLM.
        speed, direction: (B,) codes of the label; speed may be UNKNOWN.
    """
    return torch.where(speed == UNKNOWN, decided // 5, speed) * 5 + direction


# -- stage 3: which frames of a rollout are trained on ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One closed-loop drive, per step at which a plan was made; all (T,). The expert drove the same clip alone."""

    ttc_s: np.ndarray  # inf: none
    collided: np.ndarray  # bool: so far
    speed_mps: np.ndarray
    progress_m: np.ndarray  # along the route since the start
    expert_speed_mps: np.ndarray  # at the same time
    expert_progress_m: np.ndarray
    speed_limit_mps: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Marks:
    """The N frames of a rollout that are trained on; all (N,)."""

    steps: np.ndarray  # of the rollout
    unsafe: np.ndarray  # bool: slow down
    slow: np.ndarray  # bool: go faster; never together with unsafe


def marks(rollout: Rollout) -> Marks:
    """What is done about each frame (A.1.3).

    Unsafe: TTC < 3 s. Slow: speed below SLOW_SHARE of both the expert's and the limit, and more than BEHIND_M behind
    the expert; a frame that is unsafe, too, is not hurried. Frames after the first collision are dropped, one in
    EVERY of the others is kept, marked or not: L_high looks at all of them.

    Raises:
        ValueError: arrays of different lengths.
    """
    lengths = {name: np.shape(values) for name, values in vars(rollout).items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"rollout: got {lengths}, wanted arrays of one length (T,)")
    before = ~np.maximum.accumulate(rollout.collided.astype(bool))
    unsafe = rollout.ttc_s < UNSAFE_TTC_S
    lags = rollout.speed_mps < SLOW_SHARE * np.minimum(rollout.expert_speed_mps, rollout.speed_limit_mps)
    behind = rollout.progress_m < rollout.expert_progress_m - BEHIND_M
    steps = np.flatnonzero(before)[::EVERY]
    return Marks(steps=steps, unsafe=unsafe[steps], slow=(lags & behind & ~unsafe)[steps])


# -- stage 3: losses ---------------------------------------------------------------------------------------------------


def safe_loss(plans: Tensor, unsafe: Tensor) -> Tensor:
    """L_safe (B,) = 1[unsafe] sum_k |tau_k - sg(tau_{k-1})|^2, tau_0 the origin (eq. 6): slow down along the path.

    Args:
        plans: (B, S, 3).
        unsafe: (B,) bool.
    """
    origin = torch.zeros_like(plans[:, :1])
    before = torch.cat([origin, plans[:, :-1]], dim=1).detach()
    return unsafe * ((plans - before) ** 2).sum((1, 2))


def efficiency_loss(plans: Tensor, slow: Tensor) -> Tensor:
    """L_eff (B,) = 1[slow] sum_k |tau_k - sg(tau_{k+1})|^2, the plan going on straight (eq. 7): faster along the path.

    Args:
        plans: (B, S >= 2, 3).
        slow: (B,) bool.
    """
    beyond = 2 * plans[:, -1:] - plans[:, -2:-1]
    after = torch.cat([plans[:, 1:], beyond], dim=1).detach()
    return slow * ((plans - after) ** 2).sum((1, 2))


def low_loss(plans: Tensor, unsafe: Tensor, slow: Tensor) -> Tensor:
    """L_low (B,) = L_safe + L_eff (eq. 8)."""
    return safe_loss(plans, unsafe) + efficiency_loss(plans, slow)


def refined_decisions(plans: Tensor, decided: Tensor, commands: Tensor) -> Tensor:
    """The decisions (B,), as `Decision.index`, that refined plans stand for: f_K(tau) of eq. 9.

    f_K tells left, straight and right; which direction action that is says `direction_of`. The VLM's own speed action
    stays where f_K knows none. So the result is `decided` exactly where the plan is consistent with that.

    Args:
        plans: (B, S, 3) of the planner after its step on L_low.
        decided: (B,) `Decision.index` of the VLM.
        commands: (B,) DirectionAction codes of the navigation.
    """
    does, path = kinematic_mapping(plans.detach().float().cpu().numpy())
    own = [ALL_DECISIONS[index] for index in decided.tolist()]
    refined = [
        Decision(
            said.speed if speed == UNKNOWN else SpeedAction(speed),
            direction_of(PathClass(shows), said.direction, DirectionAction(command)),
        ).index
        for said, speed, shows, command in zip(own, does.tolist(), path.tolist(), commands.tolist(), strict=True)
    ]
    return torch.tensor(refined, device=plans.device)


def high_loss(log_probabilities: Tensor, refined: Tensor, decided: Tensor) -> Tensor:
    """L_high (B,) = -log P(f_K(tau) | Q) where the VLM decided something else, otherwise 0 (eq. 9).

    Args:
        log_probabilities: (B, 20) of the answers, as `DecisionModel.score` gives them.
        refined: (B,), from `refined_decisions`.
        decided: (B,) `Decision.index` of the VLM.
    """
    return (refined != decided) * -log_probabilities.gather(1, refined[:, None])[:, 0]
