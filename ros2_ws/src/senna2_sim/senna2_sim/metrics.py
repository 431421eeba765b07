"""Closed-loop metrics over clips. Source: Senna-2 (arXiv:2603.11219) section 4 and NAVSIM's fault rules, see faults.py.

CR: share of clips with a collision; AF-CR: with one that is the ego's fault; Safety@k: whose minimum TTC stays above
k seconds; progress: metres along the route, as a share of what a reference driver makes where one is given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from senna2_sim.world.world import World


@dataclass(frozen=True, kw_only=True)
class Result:
    """One clip driven."""

    clip: str
    collided: bool
    at_fault: bool
    min_ttc_s: float
    progress_m: float
    duration_s: float
    lost: bool = False
    off_road: bool = False
    ran_red_light: bool = False
    ignored_sign: bool = False  # no stop at a stop sign, or faster than a sign allows
    avoidable: bool = False  # whoever it collided with could have avoided it, see world/faults.py

    def __post_init__(self) -> None:
        if self.at_fault and not self.collided:
            raise ValueError(f"result of {self.clip}: at fault without a collision")


def result_of(world: World) -> Result:
    """How a world's clip went so far."""
    return Result(
        clip=world.clip.id,
        collided=world.collided,
        at_fault=world.at_fault,
        min_ttc_s=float(world.min_ttc_s),
        progress_m=float(world.progress_m),
        duration_s=float(world.time_s),
        lost=world.lost,
        off_road=world.off_road,
        ran_red_light=world.ran_red_light,
        ignored_sign=world.ignored_sign,
        avoidable=world.avoidable,
    )


def closed_loop(results: Iterable[Result], reference_m: Mapping[str, float] | None = None) -> dict[str, float]:
    """Means over clips.

    Args:
        results: one per clip.
        reference_m: progress of a reference driver by clip id; every clip must be there.
    Returns:
        clips, CR, AF-CR, Safety@1, Safety@2, off_road, red_light, sign, progress_m and, with a reference,
        progress (0..1, capped at 1 in every clip).
    Raises:
        ValueError: no results, a clip twice, or a clip without reference: a missing clip must not go unnoticed.
    """
    rows = list(results)
    names = [row.clip for row in rows]
    if not rows:
        raise ValueError("closed-loop metrics: got no results, wanted one per clip")
    if len(set(names)) != len(names):
        raise ValueError(f"closed-loop metrics: clips repeat: {sorted({n for n in names if names.count(n) > 1})}")
    ttc = np.array([row.min_ttc_s for row in rows])
    table = {
        "clips": float(len(rows)),
        "CR": _share(row.collided for row in rows),
        "AF-CR": _share(row.at_fault for row in rows),
        "Safety@1": float((ttc > 1.0).mean()),
        "Safety@2": float((ttc > 2.0).mean()),
        "off_road": _share(row.off_road or row.lost for row in rows),
        "red_light": _share(row.ran_red_light for row in rows),
        "sign": _share(row.ignored_sign for row in rows),
        "progress_m": float(np.mean([row.progress_m for row in rows])),
    }
    if reference_m is not None:
        if missing := sorted(set(names) - set(reference_m)):
            raise ValueError(f"closed-loop metrics: no reference progress for {missing}")
        ratios = [np.clip(row.progress_m / max(reference_m[row.clip], 1.0), 0.0, 1.0) for row in rows]
        table["progress"] = float(np.mean(ratios))
    return table


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean([bool(flag) for flag in flags]))
