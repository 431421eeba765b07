"""Open-loop scores of plans against what was driven: ADE, FDE, CR, DCR, SCR (Senna-2, arXiv:2603.11219, section 4.1).

The paper defines CR as the share of planned trajectories that collide with other traffic or with static obstacles, DCR
and SCR as those with dynamic and with static objects only; in its table 2 DCR and SCR add up to CR. Ours:

- The ego's box at each planned point is compared with the true boxes at that very time, and with the kerbs; what
  others would have done had the ego driven so is not asked. Boxes that touch do not collide.
- As in ST-P3 and UniAD, a point at which the driven pose itself hits something of the same kind (dynamic or static)
  does not count: that is an error of the recording's boxes or map, not of the plan.
- A plan collides if any of its points does, up to the horizon (ST-P3, UniAD and VAD count points, not plans). It
  belongs to DCR or SCR by what it hits first, dynamic if both at once. Dynamic are all agents but obstacles, parked
  ones too; static are obstacles (cones, barriers) and kerbs.
- ADE and FDE: mean distance of the points up to the horizon, and distance at it, m. NAME@k is at k seconds, NAME at the
  last point.

N plans of T points, A agents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from senna2_core.geometry import boxes_overlap, from_frame
from senna2_core.objects import EGO, Category, MapElements, MapKind, Objects

HORIZONS_S = (1.0, 2.0, 3.0)  # besides the whole plan


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What N plans may hit, in map."""

    dynamic: np.ndarray  # (N, T, A, 5) true boxes at the time of each point; NaN where there is none
    static: np.ndarray  # (N, T, B, 5) the same of obstacles
    kerbs: tuple[np.ndarray, ...]  # polylines (P, 2)


def surroundings(agents: Sequence[Objects], elements: MapElements, steps: np.ndarray, points: int) -> Surroundings:
    """What plans made at some steps of a recording may hit.

    Args:
        agents: true ones at each step of the recording, in map; steps follow each other as the points of a plan do.
        elements: the map, in map.
        steps: (N,) at which the plans were made.
        points: T.
    Raises:
        ValueError: the recording ends before the last point of a plan.
    """
    steps = np.asarray(steps)
    if len(steps) and steps.max() + points >= len(agents):
        raise ValueError(
            f"open loop: got a plan at step {steps.max()} of {len(agents)}, wanted {points} steps after it; leave out "
            f"the last {points} steps of a recording"
        )
    ahead = steps[:, None] + np.arange(1, points + 1)
    kept = [objects.categories == Category.OBSTACLE for objects in agents]
    return Surroundings(
        dynamic=_padded([o.boxes[~still] for o, still in zip(agents, kept, strict=True)])[ahead],
        static=_padded([o.boxes[still] for o, still in zip(agents, kept, strict=True)])[ahead],
        kerbs=tuple(line for kind, line in zip(elements.kinds, elements.points, strict=True) if kind == MapKind.KERB),
    )


def scores(
    plans: np.ndarray, truths: np.ndarray, origins: np.ndarray, around: Surroundings, dt_s: float = 0.1
) -> dict[str, np.ndarray]:
    """Scores of every plan, see above.

    Args:
        plans: (N, T, 3) x m, y m, yaw rad in base_link when planned, point k at (k + 1) * dt_s.
        truths: (N, T, 3) what was driven, likewise.
        origins: (N, 3) base_link when planned, in map.
        around: what may be hit.
        dt_s: time between points, s.
    Returns:
        (N,) each: ADE, FDE in m; CR, DCR, SCR 0 or 1, with CR = DCR + SCR; and ADE@1, FDE@1, CR@1, ... up to 1, 2, 3 s.
    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    plans, truths = (np.asarray(poses, dtype=np.float64) for poses in (plans, truths))
    count, points = plans.shape[:2]
    wanted = {"plans": (count, points, 3), "truths": (count, points, 3), "origins": (count, 3)}
    for name, values in {"plans": plans, "truths": truths, "origins": origins}.items():
        if np.shape(values) != wanted[name]:
            raise ValueError(f"open loop: got {name} of shape {np.shape(values)}, wanted {wanted[name]}")
        if not np.isfinite(values).all():
            raise ValueError(f"open loop: got {name} with values that are NaN or infinite, wanted finite poses")
    distance = displacement(plans, truths)
    planned, driven = (from_frame(poses, np.asarray(origins)[:, None]) for poses in (plans, truths))
    dynamic = _hits(planned, around.dynamic) & ~_hits(driven, around.dynamic)
    static = static_hits(planned, around) & ~static_hits(driven, around)
    either = dynamic | static
    first = np.where(either.any(1), either.argmax(1), points)
    by_dynamic = np.concatenate([dynamic, np.zeros((count, 1), dtype=bool)], axis=1)[np.arange(count), first]
    result: dict[str, np.ndarray] = {}
    for horizon_s in (*HORIZONS_S, points * dt_s):
        end = min(round(horizon_s / dt_s), points)
        hit, at = first < end, "" if horizon_s == points * dt_s else f"@{horizon_s:.0f}"
        result |= {
            f"ADE{at}": distance[:, :end].mean(1),
            f"FDE{at}": distance[:, end - 1],
            f"CR{at}": hit.astype(np.float64),
            f"DCR{at}": (hit & by_dynamic).astype(np.float64),
            f"SCR{at}": (hit & ~by_dynamic).astype(np.float64),
        }
    return result


def displacement(plans: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Distance (..., T), m, of the points of plans (..., T, >= 2) from those of truths."""
    return np.linalg.norm(np.asarray(plans)[..., :2] - np.asarray(truths)[..., :2], axis=-1)


def static_hits(poses: np.ndarray, around: Surroundings) -> np.ndarray:
    """Does the ego at poses (N, T, 3), in map, stand on an obstacle or a kerb? (N, T) bool."""
    return _hits(poses, around.static) | _kerb_hits(poses, around.kerbs)


def _hits(poses: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Does the ego at poses (N, T, 3) overlap one of boxes (N, T, A, 5), NaN ones excepted? (N, T) bool."""
    ego = EGO.box(poses)
    reach = (np.hypot(*np.moveaxis(boxes[..., 3:], -1, 0)) + np.hypot(EGO.length_m, EGO.width_m)) / 2
    close = np.linalg.norm(boxes[..., :2] - ego[..., None, :2], axis=-1) < reach  # NaN: no
    which = np.nonzero(close)
    hit = np.zeros(poses.shape[:2], dtype=bool)
    np.logical_or.at(hit, which[:2], boxes_overlap(ego[which[:2]], boxes[which]))
    return hit


def _kerb_hits(poses: np.ndarray, kerbs: Sequence[np.ndarray]) -> np.ndarray:
    """Does a kerb run through the ego at poses (N, T, 3)? (N, T) bool. A segment is a box without width."""
    hit = np.zeros(poses.shape[:2], dtype=bool)
    if not hit.size or not any(len(line) > 1 for line in kerbs):
        return hit
    start = np.concatenate([line[:-1] for line in kerbs])
    along = np.concatenate([line[1:] for line in kerbs]) - start
    length = np.linalg.norm(along, axis=1)
    yaw = np.arctan2(along[:, 1], along[:, 0])
    segments = np.column_stack([start + along / 2, yaw, length, np.zeros_like(length)])
    ego = EGO.box(poses)
    reach = (length + np.hypot(EGO.length_m, EGO.width_m)) / 2  # (S,)
    low, high = ego[..., :2].min(1), ego[..., :2].max(1)
    beyond = np.maximum(np.abs(segments[:, :2] - ((low + high) / 2)[:, None]) - ((high - low) / 2)[:, None], 0)
    plan, segment = np.nonzero(np.linalg.norm(beyond, axis=-1) < reach)  # pairs that may meet at all
    close = np.linalg.norm(ego[plan, :, :2] - segments[segment, None, :2], axis=-1) < reach[segment, None]
    pair, point = np.nonzero(close)
    at = plan[pair], point
    np.logical_or.at(hit, at, boxes_overlap(ego[at], segments[segment[pair]]))
    return hit


def _padded(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes (A_i, 5) of each step as (steps, max A, 5), filled up with NaN."""
    padded = np.full((len(boxes), max((len(b) for b in boxes), default=0), 5), np.nan)
    for row, own in zip(padded, boxes, strict=True):
        row[: len(own)] = own
    return padded
