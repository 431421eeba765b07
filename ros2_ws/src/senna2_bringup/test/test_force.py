"""Driving by decisions: what keys and lines force."""

import os
import subprocess
import sys

import pytest

from senna2_bringup.force import DOWN, KEYS, LEFT, RIGHT, UP, keys_in, press
from senna2_core.actions import ALL_DECISIONS, Decision, DirectionAction, SpeedAction
from senna2_vlm.forced import Force, forced_from_text


def test_every_decision_can_be_reached_by_keys_and_every_one_can_be_let_go():
    reached = {press(second, press(first, None)) for first in KEYS for second in KEYS}
    assert reached - {None} >= set(ALL_DECISIONS)
    assert {press("r", decision) for decision in ALL_DECISIONS} == {None}


def test_a_key_changes_its_own_half_of_the_decision_and_the_same_direction_again_is_straight():
    held = Decision(SpeedAction.DECELERATE, DirectionAction.TURN_LEFT)
    assert press("w", held) == press(UP, held) == Decision(SpeedAction.ACCELERATE, held.direction)
    assert press(RIGHT, held) == Decision(held.speed, DirectionAction.TURN_RIGHT)
    assert press(LEFT, held) == press("c", held) == Decision(held.speed, DirectionAction.STRAIGHT)
    assert press("?", held) == held and press("?", None) is None


def test_both_ways_of_writing_arrows_are_keys_among_others():
    assert keys_in("a\x1b[A\x1bOBq\x04") == ["a", UP, DOWN, "q", "\x04"]


def test_what_an_operator_says_holds_for_a_while_and_an_empty_text_lets_go():
    force, go = Force(2.0), ALL_DECISIONS[0]
    assert force.now(0.0) is None and force.now(0.0, otherwise=go) == go
    force.hear(" Stop, turn left\n", 10.0)
    stop = Decision(SpeedAction.STOP, DirectionAction.TURN_LEFT)
    assert force.now(11.9, otherwise=go) == stop and force.now(12.0, otherwise=go) == go
    force.hear(stop.text, 13.0)
    with pytest.raises(ValueError, match="forced decision: .*hover.*accelerate"):
        force.hear("hover, straight", 13.5)
    assert force.now(14.9) == stop  # a wrong text changes nothing
    force.hear("", 14.0)
    assert force.now(14.0) is None


@pytest.mark.parametrize("wrong", [5, None, True, "accelerate", "straight, accelerate", "accelerate straight"])
def test_what_is_no_decision_is_refused_with_the_way_out(wrong):
    with pytest.raises(ValueError, match=r'^forced_decision: .*wanted .*or ""|^forced_decision: .*"" for none'):
        forced_from_text(wrong, "forced_decision")


def test_without_anybody_to_force_it_says_so_and_ends(tmp_path):
    command = [sys.executable, "-m", "senna2_bringup.force", "--wait-s", "0.2"]
    environment = os.environ | {"ROS_DOMAIN_ID": "101", "ROS_LOG_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, input="", capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "nobody listens" in done.stderr and "101" in done.stderr, done.stderr
