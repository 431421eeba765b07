"""Laws of the alignment losses and marks, on plans and rollouts made by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from senna2_core.actions import ALL_DECISIONS, PATH_OF_DIRECTION, UNKNOWN, DirectionAction, PathClass, SpeedAction
from senna2_core.kinematics import kinematic_mapping
from senna2_planner.config import PlannerConfig
from senna2_planner.diffusion import DiffusionPlanner
from training.alignment import (
    Rollout,
    efficiency_loss,
    gate,
    high_loss,
    label_loss,
    low_loss,
    marks,
    open_loop_loss,
    refined_decisions,
    safe_loss,
    shown,
    shown_decisions,
)

TIMES = 0.1 * torch.arange(1, 41, dtype=torch.float64)
ARCS = [(10.0, 0.0, 0.0), (10.0, 0.0, 0.03), (6.0, 1.5, -0.05), (12.0, -2.0, 0.02)]  # m/s, m/s^2, 1/m


def arc(speed, acceleration, curvature, times=TIMES):
    """(T, 3) poses of a car on a circle that starts at the origin along x; it stops at the latest when it stands."""
    until = torch.clamp(times, max=-speed / acceleration) if acceleration < 0 else times
    along = speed * until + acceleration * until**2 / 2
    yaw = curvature * along
    if curvature == 0:
        return torch.stack([along, 0 * along, 0 * along], dim=1)
    return torch.stack([torch.sin(yaw) / curvature, (1 - torch.cos(yaw)) / curvature, yaw], dim=1)


def down(loss, plans, rate=0.1):
    """Plans after one step down the gradient of loss."""
    plans = plans.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(plans).sum(), plans)
    return (plans - rate * gradient).detach()


def lengths(plans):
    """(B,) m, from the origin to the last point."""
    points = torch.cat([torch.zeros_like(plans[:, :1]), plans], dim=1)
    return (points[:, 1:, :2] - points[:, :-1, :2]).norm(dim=-1).sum(1)


PLANS = torch.stack([arc(*a) for a in ARCS])
ALL, NONE = torch.ones(len(ARCS), dtype=torch.bool), torch.zeros(len(ARCS), dtype=torch.bool)


@pytest.mark.parametrize(("loss", "shift_s"), [(safe_loss, -0.02), (efficiency_loss, 0.02)])
def test_a_step_drives_the_same_path_later_or_earlier(loss, shift_s):
    """A step of 0.1 moves each pose by a fifth of its way to its neighbour: by 20 ms. Yaw follows the path."""
    moved = down(lambda plans: loss(plans, ALL), PLANS)
    for plan, shape in zip(moved, ARCS, strict=True):
        torch.testing.assert_close(plan, arc(*shape, times=TIMES + shift_s), atol=0.012, rtol=0)
    change = lengths(moved) - lengths(PLANS)
    assert (torch.sign(change) == np.sign(shift_s)).all() and (change.abs() > 0.01).all()


def test_steps_leave_the_path_as_a_curve_where_it_is():
    """Also several of them: every point still lies on its circle."""
    for loss in (safe_loss, efficiency_loss):
        moved = PLANS
        for _ in range(5):
            moved = down(lambda plans, loss=loss: loss(plans, ALL), moved)
        for plan, (_, _, curvature) in zip(moved, ARCS, strict=True):
            x, y = plan[:, 0], plan[:, 1]
            aside = y.abs() if curvature == 0 else (torch.hypot(x, y - 1 / curvature) - 1 / abs(curvature)).abs()
            assert aside.max() < 0.08
        assert ((lengths(moved) < lengths(PLANS)) == (loss is safe_loss)).all()


def test_no_gradient_flows_through_the_neighbour():
    """Each pose is drawn by its own term alone; were the neighbour's not stopped, it would feel both sides."""
    plans = PLANS.clone().requires_grad_()
    steps = torch.diff(PLANS, dim=1, prepend=torch.zeros(len(ARCS), 1, 3, dtype=torch.float64))
    (back,) = torch.autograd.grad(safe_loss(plans, ALL).sum(), plans)
    torch.testing.assert_close(back, 2 * steps)
    (ahead,) = torch.autograd.grad(efficiency_loss(plans, ALL).sum(), plans)
    torch.testing.assert_close(ahead, -2 * torch.cat([steps[:, 1:], steps[:, -1:]], dim=1))


def test_only_marked_plans_move_and_a_standing_one_cannot_be_pushed():
    unsafe, slow = torch.tensor([True, False, False, True]), torch.tensor([False, True, False, True])
    moved = down(lambda plans: low_loss(plans, unsafe, slow), PLANS)
    assert ((moved != PLANS).any(2).any(1) == (unsafe | slow)).all()
    assert lengths(moved)[0] < lengths(PLANS)[0] and lengths(moved)[1] > lengths(PLANS)[1]
    assert (low_loss(PLANS, NONE, NONE) == 0).all()
    standing = torch.zeros(1, 40, 3)
    assert (down(lambda plans: efficiency_loss(plans, ALL[:1]), standing) == standing).all()


@pytest.mark.parametrize(("loss", "longer"), [(safe_loss, False), (efficiency_loss, True)])
def test_a_planner_that_learns_from_it_plans_shorter_or_longer(loss, longer):
    torch.manual_seed(0)
    planner = DiffusionPlanner(PlannerConfig(tokens=5, token_size=8, condition_size=4, size=32, layers=1))
    speeds = torch.tensor([a[0] for a in ARCS])
    planner.set_statistics(PLANS.numpy(), speeds.numpy())
    planner.eval()
    for last in (planner.denoiser.out, planner.denoiser.coarse[-1]):
        torch.nn.init.zeros_(last.weight)  # it begins with the mean plan, which is not ragged
    scene, noise = torch.randn(4, 5, 8), torch.randn(4, 40, 3)
    before = planner.sample(speeds, scene, None, noise)
    loss(before, ALL).mean().backward()
    with torch.no_grad():
        for weight in planner.parameters():
            if weight.grad is not None:
                weight -= 1e-5 * weight.grad
        after = planner.sample(speeds, scene, None, noise)
    change = (lengths(after) - lengths(before)).mean()
    assert (change > 0) == longer and change.abs() > 1e-4


# -- stage 2 -----------------------------------------------------------------------------------------------------------

KEEP, STOP = (int(a) for a in (SpeedAction.KEEP, SpeedAction.STOP))
STRAIGHT, LEFT = (int(a) for a in (DirectionAction.STRAIGHT, DirectionAction.CHANGE_LANE_LEFT))


def test_a_plan_is_consistent_when_speed_and_path_are_and_an_unclear_speed_is_with_any():
    plans = torch.stack([arc(10, 0, 0), arc(10, 0, 0), arc(10, 0, 0), arc(10, 0, 0.03), arc(10, 0.55, 0), arc(0, 0, 0)])
    speed = torch.tensor([KEEP, STOP, KEEP, KEEP, STOP, STOP])
    direction = torch.tensor([STRAIGHT, STRAIGHT, LEFT, LEFT, STRAIGHT, STRAIGHT])
    seen = shown(plans, speed, direction)
    assert seen.speed[4] == UNKNOWN
    assert gate(seen).tolist() == [0, 1, 1, 0, 0, 0]


class ToyPlanner(torch.nn.Module):
    """Drives straight on at a learned share of its initial speed."""

    def __init__(self):
        super().__init__()
        self.share = torch.nn.Parameter(torch.ones(()))

    def forward(self, speed):
        along = self.share * speed[:, None] * TIMES.float()
        return torch.stack([along, 0 * along, 0 * along], dim=2)


def toy_loss(planner, logits, decided, which):
    """Stage 2 of samples `which` out of four that all keep their speed."""
    plans = planner(torch.tensor([4.0, 8.0, 12.0, 16.0])[which])
    gates = gate(shown(plans, decided[which], torch.full((len(which),), STRAIGHT)))
    e2e = ((plans - 1.1 * plans.detach()) ** 2).mean((1, 2))
    vlm = label_loss(logits.log_softmax(1)[which], torch.full((len(which),), STOP), torch.full((len(which),), STRAIGHT))
    return open_loop_loss(gates, e2e, vlm, gamma=1.0, of=4)


def test_consistent_samples_give_exactly_no_gradient_and_inconsistent_ones_do():
    planner, logits = ToyPlanner(), torch.zeros(4, 20, requires_grad=True)
    loss = toy_loss(planner, logits, torch.tensor([KEEP] * 4), torch.arange(4))
    gradients = torch.autograd.grad(loss, [planner.share, logits])
    assert loss == 0 and all((gradient == 0).all() for gradient in gradients)
    loss = toy_loss(planner, logits, torch.tensor([KEEP, STOP, KEEP, STOP]), torch.arange(4))
    of_planner, of_vlm = torch.autograd.grad(loss, [planner.share, logits])
    assert of_planner < 0  # the planner learns to drive further ...
    assert ((of_vlm != 0).any(1) == torch.tensor([False, True, False, True])).all()
    assert (of_vlm.argmin(1)[[1, 3]] == 5 * STOP + STRAIGHT).all()  # ... and the VLM the right decision


def test_leaving_out_consistent_samples_changes_nothing():
    planner, logits = ToyPlanner(), torch.zeros(4, 20, requires_grad=True)
    decided = torch.tensor([KEEP, STOP, KEEP, STOP])
    whole, part = (toy_loss(planner, logits, decided, torch.tensor(w)) for w in ([0, 1, 2, 3], [1, 3]))
    torch.testing.assert_close(whole, part)
    for a, b in zip(*(torch.autograd.grad(x, [planner.share, logits]) for x in (whole, part)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_label_without_clear_speed_is_any_answer_with_its_direction():
    probabilities = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)).softmax(1)
    loss = label_loss(probabilities.log(), torch.tensor([2, UNKNOWN]), torch.tensor([3, 3]))
    torch.testing.assert_close(loss.exp(), torch.stack([1 / probabilities[0, 13], 1 / probabilities[1, 3::5].sum()]))


def test_the_decision_that_a_trajectory_shows_is_consistent_with_it():
    speed, path = (torch.from_numpy(codes) for codes in kinematic_mapping(PLANS.numpy()))
    direction = torch.tensor([PATH_OF_DIRECTION.index(p) for p in path])
    for decided in range(20):
        own = torch.full((len(PLANS),), decided)
        found = shown_decisions(own, speed, direction)
        assert shown(PLANS, found // 5, found % 5).consistent.all()
        unclear = shown_decisions(own, torch.full_like(speed, UNKNOWN), direction)
        assert (unclear // 5 == decided // 5).all() and (unclear % 5 == direction).all()


# -- stage 3 -----------------------------------------------------------------------------------------------------------


def rollout(steps=40, **changed):
    """Nothing the matter: as fast and as far as the expert."""
    even = dict(
        ttc_s=np.full(steps, np.inf), collided=np.zeros(steps, dtype=bool), speed_mps=np.full(steps, 10.0),
        progress_m=np.arange(steps) * 1.0, expert_speed_mps=np.full(steps, 10.0),
        expert_progress_m=np.arange(steps) * 1.0, speed_limit_mps=np.full(steps, 13.9),
    )  # fmt: skip
    return Rollout(**{name: np.broadcast_to(changed.get(name, value), steps) for name, value in even.items()})


def test_a_rollout_with_nothing_the_matter_is_kept_unmarked():
    found = marks(rollout())
    assert found.steps.tolist() == list(range(0, 40, 4)) and not (found.unsafe | found.slow).any()


@pytest.mark.parametrize(("ttc_s", "unsafe"), [(2.9, True), (3.0, False), (0.0, True)])
def test_frames_below_three_seconds_to_collision_are_unsafe(ttc_s, unsafe):
    assert (marks(rollout(ttc_s=ttc_s)).unsafe == unsafe).all()


BEHIND = np.arange(40) - 2.0
LAGS = dict(speed_mps=5.0, progress_m=BEHIND)


@pytest.mark.parametrize(
    ("changed", "slow"),
    [
        (LAGS, True),
        (LAGS | dict(progress_m=BEHIND + 2.0), False),  # slow now, but where the expert is
        (LAGS | dict(speed_mps=9.0), False),  # behind, but nearly as fast
        (LAGS | dict(expert_speed_mps=5.0), False),  # as fast as the expert
        (LAGS | dict(speed_limit_mps=5.0), False),  # as fast as is allowed
        (LAGS | dict(expert_speed_mps=0.0, speed_mps=0.0), False),  # the expert stands, too
        (LAGS | dict(ttc_s=2.0), False),  # has to slow down
    ],
)
def test_frames_are_slow_that_lag_expert_and_limit_in_speed_and_the_expert_in_progress(changed, slow):
    assert (marks(rollout(**changed)).slow == slow).all()


@pytest.mark.parametrize(("first", "kept"), [(0, 0), (1, 1), (13, 4), (39, 10)])
def test_nothing_from_the_first_collision_on_is_used(first, kept):
    collided = np.arange(40) == first  # also when it does not stay so
    assert marks(rollout(collided=collided)).steps.tolist() == [4 * k for k in range(kept)]


def test_marks_are_those_of_their_own_steps():
    unsafe = np.random.default_rng(0).uniform(size=40) < 0.5
    found = marks(rollout(ttc_s=np.where(unsafe, 1.0, 9.0)))
    assert (found.unsafe == unsafe[found.steps]).all()


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        marks(replace(rollout(), ttc_s=np.zeros(3)))


SHAPES = torch.stack([arc(v, a, k) for v, a, k in itertools.product([8.0], [-2.0, 0.0, 0.5, 2.0], [-0.06, 0.0, 0.06])])


def test_a_refined_plan_stands_for_what_it_does():
    """Whatever was decided and commanded; and for the decision itself exactly where it is consistent with that."""
    speeds, paths = kinematic_mapping(SHAPES.numpy())
    assert set(speeds.tolist()) == {-1, 0, 1, 2} and set(paths.tolist()) == set(PathClass)
    for decision, command in itertools.product(ALL_DECISIONS, DirectionAction):
        decided = torch.full((len(SHAPES),), decision.index)
        refined = refined_decisions(SHAPES, decided, torch.full_like(decided, command))
        seen = shown(SHAPES, decided // 5, decided % 5)
        assert ((refined == decided).numpy() == seen.consistent).all()
        for index, speed, path in zip(refined.tolist(), speeds, paths, strict=True):
            new = ALL_DECISIONS[index]
            assert new.path == path and new.speed == (decision.speed if speed == UNKNOWN else speed)
            wanted = [d for d in (decision.direction, command) if PATH_OF_DIRECTION[d] == path]
            turn = {PathClass.LEFT: 1, PathClass.STRAIGHT: 0, PathClass.RIGHT: 2}[PathClass(path)]
            assert new.direction == (wanted[0] if wanted else turn)


def test_the_vlm_learns_what_the_refined_plan_does_where_it_disagrees():
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    refined, decided = torch.tensor([4, 7, 9]), torch.tensor([4, 8, 19])
    loss = high_loss(logits.log_softmax(1), refined, decided)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[0] == 0 and (gradient[0] == 0).all() and (loss[1:] > 0).all()
    assert (gradient.argmin(1)[1:] == refined[1:]).all()
