import pytest

from senna2_core.actions import ALL_DECISIONS, Decision, DirectionAction, PathClass, SpeedAction


def test_there_are_twenty_decisions_in_index_order():
    assert [d.index for d in ALL_DECISIONS] == list(range(20))
    assert len(set(ALL_DECISIONS)) == 20


def test_index_and_text_are_invertible():
    for decision in ALL_DECISIONS:
        assert Decision.from_index(decision.index) == decision
        assert Decision.from_text(decision.text) == decision
        assert Decision.from_text(f"  {decision.text.upper()}\n") == decision


def test_text_reads_as_the_vlm_writes_it():
    assert Decision(SpeedAction.DECELERATE, DirectionAction.TURN_LEFT).text == "decelerate, turn left"
    assert Decision(SpeedAction.KEEP, DirectionAction.CHANGE_LANE_RIGHT).text == "keep, change lane right"


def test_direction_projects_to_the_path_that_it_shows():
    paths = [Decision(SpeedAction.KEEP, d).path for d in DirectionAction]
    assert paths == [PathClass.STRAIGHT, PathClass.LEFT, PathClass.RIGHT, PathClass.LEFT, PathClass.RIGHT]


def test_codes_are_accepted_and_become_actions():
    assert Decision(3, 2) == Decision(SpeedAction.STOP, DirectionAction.TURN_RIGHT)
    assert isinstance(Decision(3, 2).speed, SpeedAction)


@pytest.mark.parametrize("text", ["", "keep", "keep turn left", "keep, turn left, stop", "keep, up"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="wanted"):
        Decision.from_text(text)


@pytest.mark.parametrize("index", [-1, 20])
def test_other_index_is_refused(index):
    with pytest.raises(ValueError, match=r"0\.\.19"):
        Decision.from_index(index)
