from dataclasses import dataclass
from typing import Literal

import pytest

from senna2_core.config import from_dict, to_dict
from senna2_core.join import StreamJoin


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 4

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width: got {self.width}, wanted at least 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["fast", "slow"] = "fast"
    note: str | None = None
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(),)


def test_a_config_survives_the_way_through_plain_data():
    config = Outer(name="a", rate=2, inner=Inner(width=7), many=(Inner(width=1), Inner(width=2)))
    assert from_dict(Outer, to_dict(config), "here") == config


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"extra": 1}, "extra: Unexpected"),
        ({"inner": {"width": 4, "depth": 2}}, "inner.depth: Unexpected"),
        ({"inner": {}}, "inner.width: Field required"),
        ({"many": [{}]}, "many.0.width: Field required"),
        ({"rate": "0.5"}, "rate: .*number, got '0.5'"),
        ({"sizes": [1, 2.5]}, "sizes.1: .*integer, got 2.5"),
        ({"mode": "medium"}, "mode: "),
        ({"inner": {"width": 0}}, "width: got 0, wanted at least 1"),
    ],
)
def test_unknown_missing_and_mistyped_fields_are_named(change, complaint):
    with pytest.raises(ValueError, match=f"config.json: .*{complaint}"):
        from_dict(Outer, to_dict(Outer(name="a")) | change, "config.json")


@pytest.mark.parametrize("field", ["name", "rate", "note", "inner"])
def test_a_field_with_a_default_must_be_there_too(field):
    data = to_dict(Outer(name="a"))
    del data[field]
    with pytest.raises(ValueError, match=f"here: {field}: Field required; wanted the fields of Outer"):
        from_dict(Outer, data, "here")


def ms(milliseconds):
    return milliseconds * 1_000_000


def test_a_set_is_released_when_its_last_member_arrives_in_any_order():
    join = StreamJoin(("a", "b"), max_age_s=1.0)
    assert join.put("a", ms(100), 1) is None
    assert join.put("b", ms(200), 20) is None
    assert join.put("b", ms(100), 2) == {"a": 1, "b": 2}
    assert join.put("a", ms(200), 10) == {"a": 10, "b": 20}
    assert join.why_incomplete == "" and join.dropped == 0


def test_older_sets_are_dropped_and_counted_when_a_newer_one_completes():
    join = StreamJoin(("a", "b"), max_age_s=1.0)
    join.put("a", ms(100), 1)
    join.put("a", ms(200), 2)
    assert join.put("b", ms(200), 2) == {"a": 2, "b": 2}
    assert join.dropped == 1
    assert join.put("b", ms(100), 1) is None  # too late: its set is over
    assert join.put("a", ms(200), 3) is None
    assert join.dropped == 1


def test_waiting_sets_are_bounded_by_their_age():
    join = StreamJoin(("a", "b"), max_age_s=0.5)
    for k in range(100):
        join.put("a", ms(100 * k), k)
    assert join.dropped == 94
    assert join.put("b", ms(9900), 0) == {"a": 99, "b": 0}


def test_time_that_jumps_back_starts_afresh():
    join = StreamJoin(("a", "b"), max_age_s=0.5)
    join.put("a", ms(9000), 0)
    assert join.put("b", ms(9000), 0) is not None
    assert join.put("a", ms(100), 1) is None
    assert join.put("b", ms(100), 1) == {"a": 1, "b": 1}


def test_the_missing_streams_are_named():
    join = StreamJoin(("a", "b", "c"), max_age_s=0.5)
    join.put("a", ms(1200), 0)
    assert join.why_incomplete == "stamp 1.200 s waits for b, c"
    with pytest.raises(ValueError, match="wanted one of"):
        join.put("d", 0, 0)
