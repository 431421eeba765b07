"""How decisions and plans agree over many ticks: F1 per class, and how far plans follow forced decisions. N ticks.

Source: Senna-2 (arXiv:2603.11219) section 4.1 (F1) and figure 4 (relative speed ratio).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from senna2_core.actions import PATH_OF_DIRECTION, UNKNOWN, DirectionAction, PathClass, SpeedAction, words
from senna2_core.bags import bag_topics, read_bag
from senna2_core.confusion import confusion, f1
from senna2_core.consistency import consistent_codes
from senna2_core.messages import Consistency, read_consistency, stamp_ns

RATIO_AT_S, RATIO_FROM_MPS = 3.0, 1.0  # planned speed at that time over the initial one, if that is at least so much
# Initial speeds, m/s, at which f_K can show an action at all: nobody brakes while standing, and the mean speed of a car
# that brakes as hard as 4 m/s^2 falls below f_K's 0.5 m/s only from 2.4 m/s.
POSSIBLE_MPS = {
    SpeedAction.ACCELERATE: (0.0, np.inf),
    SpeedAction.DECELERATE: (1.0, np.inf),
    SpeedAction.KEEP: (0.5, np.inf),
    SpeedAction.STOP: (0.0, 2.4),
}
_PATHS = np.array(PATH_OF_DIRECTION)
_TOPIC = "/planner/consistency"


def agreement(decided: np.ndarray, planned: np.ndarray) -> dict[str, Any] | None:
    """F1 of decisions against f_K of the plans that follow them.

    Args:
        decided: codes of the speed and the direction action, (N, 2).
        planned: f_K of the plan: SpeedAction code, -1 unknown, and PathClass code, (N, 2).
    Returns:
        f1: mean over the classes that occur; classes: of each of the four speed and three path classes f1 (None where
        it occurs neither in decisions nor in plans), decided and planned (counts); plans: N; unknown: plans without a
        clear speed action, which no speed class counts; agree: share of plans that do what was decided (an unknown
        speed is not compared). None where N is 0.
    """
    if not len(decided):
        return None
    (decided_speed, decided_direction), (speed, path) = _columns(decided), _columns(planned)
    counts = {
        SpeedAction: confusion(decided_speed, speed, len(SpeedAction), len(SpeedAction) + 1),
        PathClass: confusion(_PATHS[decided_direction], path, len(PathClass)),
    }
    classes = {
        words(kind(code)): _class(matrix, code) for kind, matrix in counts.items() for code in range(len(matrix))
    }
    occurring = [row["f1"] for row in classes.values() if row["f1"] is not None]
    agree = consistent_codes(speed, path, decided_speed, decided_direction)
    return {
        "f1": round(float(np.mean(occurring)), 4),
        "agree": round(float(agree.mean()), 4),
        "plans": len(decided),
        "unknown": int((speed == UNKNOWN).sum()),
        "classes": classes,
    }


def codes_of(checks: Mapping[int, Consistency]) -> tuple[np.ndarray, np.ndarray]:
    """What `agreement` takes, of ticks by stamp: decided (N, 2), planned (N, 2)."""
    decided = [(c.decision.speed, c.decision.direction) for c in checks.values()]
    planned = [(c.speed, c.path) for c in checks.values()]
    return np.array(decided, dtype=int).reshape(-1, 2), np.array(planned, dtype=int).reshape(-1, 2)


def agreement_in(bag: Path) -> dict[str, Any] | None:
    """`agreement` over every /planner/consistency in a bag; of ticks with the same stamp the last counts.

    Raises:
        ValueError: no readable bag.
    """
    topics = [topic for topic in (_TOPIC,) if topic in bag_topics(bag)]
    ticks = {stamp_ns(msg.header): read_consistency(msg) for _, _, msg in read_bag(bag, topics)}
    return agreement(*codes_of(ticks))


def following(
    forced: np.ndarray, planned: np.ndarray, speeds_mps: np.ndarray, speeds_later_mps: np.ndarray
) -> dict[str, Any] | None:
    """How far plans followed forced decisions.

    Args:
        forced: codes of the speed and the direction action, (N, 2).
        planned: f_K of the plan, as in `agreement`, (N, 2). Here an unknown speed does not follow.
        speeds_mps: when the plan was made, (N,).
        speeds_later_mps: planned for RATIO_AT_S later, (N,); NaN where the plan is shorter.
    Returns:
        ticks: N; followed: share whose speed action and path class are both the forced ones; speed: of each forced
        action ticks, followed (share), possible (ticks at a speed at which f_K can show it, POSSIBLE_MPS),
        followed_where_possible, speed_ratio ([10 %, 50 %, 90 %] of planned over initial speed; None below
        RATIO_FROM_MPS); direction: of each forced action ticks and followed (by path class). None where N is 0.
    """
    if not len(forced):
        return None
    (action, direction), (speed, path) = _columns(forced), _columns(planned)
    same_speed, same_path = action == speed, _PATHS[direction] == path
    low, high = np.array([POSSIBLE_MPS[a] for a in SpeedAction])[action].T
    possible = (low <= speeds_mps) & (speeds_mps <= high)
    has_ratio = (speeds_mps >= RATIO_FROM_MPS) & np.isfinite(speeds_later_mps)
    ratios = speeds_later_mps / np.where(has_ratio, speeds_mps, np.nan)

    def of_speed(ticks: np.ndarray) -> dict[str, Any]:
        spread = ratios[ticks & has_ratio]
        return {
            "ticks": int(ticks.sum()),
            "followed": _share(same_speed[ticks]),
            "possible": int((ticks & possible).sum()),
            "followed_where_possible": _share(same_speed[ticks & possible]),
            "speed_ratio": np.percentile(spread, [10, 50, 90]).round(4).tolist() if len(spread) else None,
        }

    return {
        "ticks": len(forced),
        "followed": _share(same_speed & same_path),
        "speed": {words(a): of_speed(action == a) for a in SpeedAction if (action == a).any()},
        "direction": {
            words(d): {"ticks": int((direction == d).sum()), "followed": _share(same_path[direction == d])}
            for d in DirectionAction
            if (direction == d).any()
        },
    }


def planned_speeds(plans: np.ndarray, at_s: float, dt_s: float = 0.1) -> np.ndarray:
    """Speed (N,), m/s, of plans (N, T, 3) at a time, over the two steps around it. dt_s: between points, s."""
    index = round(at_s / dt_s) - 1
    return np.linalg.norm(np.diff(plans[:, [index - 1, index + 1], :2].astype(float), axis=1)[:, 0], axis=-1) / (
        2 * dt_s
    )


def _columns(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes = np.asarray(codes, dtype=int)
    return codes[:, 0], codes[:, 1]


def _share(hits: np.ndarray) -> float | None:
    return round(float(hits.mean()), 4) if len(hits) else None


def _class(matrix: np.ndarray, code: int) -> dict[str, Any]:
    value, square = float(f1(matrix)[code]), matrix[:, : len(matrix)]
    return {
        "f1": round(value, 4) if math.isfinite(value) else None,
        "decided": int(square[code].sum()),
        "planned": int(square[:, code].sum()),
    }
