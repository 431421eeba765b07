"""Laws of the measured leader."""

import pytest
import torch

from senna2_perception.leader import CLOSING_SCALE_MPS, LEADER_FEATURES, leader_token

SURE, NOBODY = 4.0, -4.0


def token(now_m: float, past_m: tuple[float, float], logit: float = SURE, known: tuple[bool, bool] = (True, True)):
    """Of one sample: gaps now, 0.5 s and 1 s ago."""
    now = torch.tensor([[logit, now_m / 10, 7.0]])
    past = torch.tensor([[[logit, gap / 10, -3.0] for gap in past_m]])
    return leader_token(now, past, torch.tensor([[0.5, 1.0]]), torch.tensor([known]), 16)[0]


def test_closing_speed_is_the_change_of_the_gap_over_its_time():
    near = token(20.0, (24.0, 28.0))  # 8 m/s
    assert near[5].item() == pytest.approx(8 / CLOSING_SCALE_MPS) == near[8].item()
    assert near[6].item() == pytest.approx(8**2 / (2 * 20) / 3) == near[9].item()  # braking that stops in time
    away = token(20.0, (18.0, 16.0))
    assert away[5].item() == pytest.approx(-4 / CLOSING_SCALE_MPS) and away[6] == away[9] == 0
    assert (near[LEADER_FEATURES:] == 0).all()


def test_the_answered_speed_stands_beside_the_measured_one_and_no_gradient_flows_into_the_answers():
    now = torch.tensor([[SURE, 2.0, 0.0]], requires_grad=True)
    past = torch.tensor([[[SURE, 2.4, 0.0], [SURE, 2.8, 0.0]]])
    ages, known = torch.tensor([[0.5, 1.0]]), torch.tensor([[True, True]])
    one = leader_token(now, past, ages, known, 16)
    assert not one.requires_grad
    other = leader_token(now + torch.tensor([0, 0, 9.0]), past, ages, known, 16)
    assert ((other - one).nonzero() == torch.tensor([[0, LEADER_FEATURES - 1]])).all()
    assert other[0, LEADER_FEATURES - 1] == pytest.approx(9.0, rel=0.05)


def test_without_memory_or_leader_nothing_is_known_of_the_closing_speed():
    assert (token(20.0, (24.0, 28.0), known=(False, True))[4:7] == 0).all()
    assert token(20.0, (24.0, 28.0), known=(False, True))[7] == 1
    assert (token(20.0, (24.0, 28.0), logit=NOBODY)[4:10] == 0).all()
    assert token(20.0, (24.0, 28.0), logit=NOBODY)[1] < 0.05
    assert torch.isfinite(token(-1.0, (0.0, 300.0))).all()  # answers are no promises
