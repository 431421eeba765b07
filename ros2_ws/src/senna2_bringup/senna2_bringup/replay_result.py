"""What a replay amounts to: plans against the bag's labels and against what was driven, consistency, latencies. No ROS.

`score` takes plans and decisions from wherever they come, so that a stack without ROS is counted alike.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senna2_bringup.replay_bag import DT_S, POINTS, ReplayBag, seconds
from senna2_bringup.replay_heard import NODES, ages_ms, latencies_ms, played_rate, read_heard
from senna2_bringup.result import trajectory_sha256
from senna2_core.agreement import agreement
from senna2_core.kinematics import kinematic_mapping
from senna2_core.open_loop import Surroundings, scores, surroundings

PERCENTILES = (50, 95, 99)
MOST_ERRORS = 5  # different complaints of nodes that are kept
_JITTER_NS = 20_000_000  # by which steps may be off the 0.1 s grid when others' true boxes are looked up


def score(bag: ReplayBag, plans: Mapping[int, np.ndarray], decisions: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """The figures that depend on plans alone.

    Args:
        plans: by stamp ns, (40, 3) in base_link; those at the bag's steps count.
        decisions: codes of the speed and direction action that a plan was conditioned on, by stamp of the plan.
    Returns:
        steps, plans, missing_plans, broken_plans (not finite: left out); against_plan: ADE, FDE, ... (m) against the
        recorded plan; against_driven: the same against what was driven, and CR, DCR, SCR where the bag has true boxes,
        over the steps that 4 s of odometry follow; consistency, see `consistency_figures`. None where nothing counts.
    """
    at_steps = {stamp: np.asarray(plans[stamp], dtype=np.float64) for stamp in bag.steps if stamp in plans}
    sound = {stamp: plan for stamp, plan in at_steps.items() if np.isfinite(plan).all()}
    return {
        "steps": len(bag.steps),
        "plans": len(at_steps),
        "missing_plans": len(bag.steps) - len(at_steps),
        "broken_plans": len(at_steps) - len(sound),
        "against_plan": _means(_scored(bag, sound, {s: bag.plans[s] for s in sound if s in bag.plans}), truth=False),
        "against_driven": _driven(bag, sound),
        "consistency": consistency_figures(sound, decisions),
    }


def errors_over_time(bag: ReplayBag, plans: Mapping[int, np.ndarray]) -> dict[str, dict[int, float]]:
    """ADE and FDE of every plan against the bag's label, m, by stamp; only stamps that have one."""
    labels = {s: label for s in plans if s in bag.ego and (label := label_of(bag, s)) is not None}
    each = _scored(bag, plans, labels)
    return {name: dict(zip(labels, each[name].tolist(), strict=True)) for name in ("ADE", "FDE")} if each else {}


def label_of(bag: ReplayBag, stamp: int) -> np.ndarray | None:
    """What a plan at this step is judged by, (40, 3) base_link; None where it is not known to its end."""
    if bag.plans:
        return bag.plans.get(stamp)
    driven = bag.driven(stamp)
    return driven if np.isfinite(driven).all() else None


def consistency_figures(
    plans: Mapping[int, np.ndarray], decisions: Mapping[int, tuple[int, int]]
) -> dict[str, Any] | None:
    """`senna2_core.agreement.agreement` of the plans whose decision is known; None where there are none."""
    stamps = [stamp for stamp in plans if stamp in decisions]
    if not stamps:
        return None
    planned = np.stack(kinematic_mapping(np.stack([plans[stamp] for stamp in stamps]), DT_S), axis=1)
    return agreement(np.array([decisions[stamp] for stamp in stamps]), planned)


def _driven(bag: ReplayBag, plans: Mapping[int, np.ndarray]) -> dict[str, Any] | None:
    driven = {stamp: bag.driven(stamp) for stamp in plans}
    known = {stamp: poses for stamp, poses in driven.items() if np.isfinite(poses).all()}
    stamps = np.array(sorted(bag.truth), dtype=np.int64)
    at = {stamp: int(np.searchsorted(stamps, stamp - _JITTER_NS)) for stamp in known}
    grid = round(DT_S * 1e9) * np.arange(POINTS + 1)
    covered = {
        stamp: poses
        for stamp, poses in known.items()
        if at[stamp] + POINTS < len(stamps)
        and (np.abs(stamps[at[stamp] : at[stamp] + POINTS + 1] - stamp - grid) < _JITTER_NS).all()
    }
    if not covered or not len(bag.map.kinds):
        return _means(_scored(bag, plans, known), truth=False)
    agents = [bag.truth[int(stamp)].agents for stamp in stamps]
    around = surroundings(agents, bag.map, np.array([at[stamp] for stamp in covered]), POINTS)
    return _means(_scored(bag, plans, covered, around), truth=True)


def _scored(
    bag: ReplayBag,
    plans: Mapping[int, np.ndarray],
    labels: Mapping[int, np.ndarray],
    around: Surroundings | None = None,
) -> dict[str, np.ndarray]:
    """`senna2_core.open_loop.scores` of the labelled plans; empty where there are none."""
    if not labels:
        return {}
    nothing = np.zeros((len(labels), POINTS, 0, 5))
    return scores(
        np.stack([plans[stamp] for stamp in labels]),
        np.stack(list(labels.values())),
        np.stack([bag.pose(stamp) for stamp in labels]),
        around or Surroundings(dynamic=nothing, static=nothing, kerbs=()),
        DT_S,
    )


def _means(each: Mapping[str, np.ndarray], truth: bool) -> dict[str, Any] | None:
    """Means over plans; without true boxes nothing is said about collisions."""
    if not each:
        return None
    kept = {name: values for name, values in each.items() if truth or not name.startswith(("CR", "DCR", "SCR"))}
    return {"plans": len(each["ADE"])} | {name: round(float(values.mean()), 4) for name, values in kept.items()}


def percentiles(values: Sequence[float]) -> dict[str, Any]:
    """p50, p95, p99 and count of all values but the first, which is told apart: it warms up."""
    rest = values[1:]
    row: dict[str, Any] = {"count": len(rest), "first": round(values[0], 3) if values else None}
    return row | {f"p{p}": round(float(np.percentile(rest, p)), 3) if rest else None for p in PERCENTILES}


def result_of(bag: ReplayBag, heard_file: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of result.json. known: outcome, mode and so on, put in front."""
    heard = read_heard(heard_file)
    realtime = known.get("mode") == "realtime" or known.get("player") is False
    latencies, ages = latencies_ms(bag, heard), ages_ms(bag, heard, realtime)
    heard_inputs = heard.sent_ns.get("/ego/odometry", {})
    over = bool(heard_inputs) and max(heard_inputs) >= bag.steps[-1]
    rate = played_rate(heard)
    result = {"outcome": "finished" if over else "aborted: not played to its end"} | dict(known)
    result |= {"bag": str(bag.path), "label": bag.label} | score(bag, heard.plans, heard.decisions)
    return result | {
        "duration_s": round(seconds(bag.steps[-1], bag), 3),
        "played_s": round(max(seconds(max(heard_inputs), bag), 0.0), 3) if heard_inputs else 0.0,
        "rate": round(rate, 3) if rate else None,
        "latency_ms": {name: percentiles(list(latencies[name].values())) for name in NODES},
        "age_ms": {name: percentiles(list(values.values())) for name, values in ages.items()},
        "errors": dict(sorted(heard.errors.items(), key=lambda item: -item[1])[:MOST_ERRORS]),
        "trajectory_sha256": trajectory_sha256({s: p for s, p in heard.plans.items() if s in bag.steps}),
    }


def write_result(bag: ReplayBag, heard_file: Path, known: Mapping[str, Any], report: bool = True) -> str:
    """Write result.json and report.html beside what was heard; returns the summary."""
    from senna2_bringup.replay_report import write_report

    folder = heard_file.parent
    result = result_of(bag, heard_file, known) | {"report": None}
    write_json(folder, result)
    if report:
        write_report(bag, read_heard(heard_file), result, folder / "report.html")
        result["report"] = str(folder / "report.html")
        write_json(folder, result)
    return summary(result)


def write_json(folder: Path, result: Mapping[str, Any]) -> None:
    """result.json."""
    (folder / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def summary(result: Mapping[str, Any]) -> str:
    """What the user reads at the end."""
    lines = [
        f"{Path(result['bag']).name}, {result.get('mode', 'unknown mode')}: {result['outcome']}",
        f"  {result['plans']} plans for {result['steps']} steps in {result['duration_s']} s"
        + (f", {result['missing_plans']} missing" if result["missing_plans"] else "")
        + (f", {result['broken_plans']} not finite" if result["broken_plans"] else "")
        + (f", played at x{result['rate']}" if result["rate"] else ""),
    ]
    lines += [_errors_line(result, key, what) for key, what in (("against_plan", "recorded plan"),
                                                                ("against_driven", "what was driven"))]  # fmt: skip
    lines.append(_consistency_line(result["consistency"]))
    lines.append(f"  {'':<12}latency ms   p50      p95      p99       age ms   p50      p95      p99")
    for name, row in result["latency_ms"].items():
        lines.append(f"  {name:<12}{'':<8}{_three(row)}{'':<12}{_three(result['age_ms'].get(name, {}))}".rstrip())
    lines += [f"  {text} ({count} x)" for text, count in result["errors"].items()]
    return "\n".join([*lines, *([f"  report  {result['report']}"] if result["report"] else [])])


def _errors_line(result: Mapping[str, Any], key: str, what: str) -> str:
    row = result[key]
    if row is None:
        why = (
            "no expert's plan in the bag" if key == "against_plan" and result["label"] == "odometry" else "none counts"
        )
        if key == "against_driven":
            why = f"no plan with {POINTS * DT_S:g} s of odometry after it"
        return f"  against {what:<16} - ({why})"
    rates = (
        f", CR {100 * row['CR']:.1f} %, DCR {100 * row['DCR']:.1f} %, SCR {100 * row['SCR']:.1f} %"
        if "CR" in row
        else ""
    )
    return f"  against {what:<16} ADE {row['ADE']:.3f} m, FDE {row['FDE']:.3f} m{rates}, {row['plans']} plans"


def _consistency_line(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "  consistency - (no decision was heard)"
    classes = ", ".join(f"{name} {c['f1']:.2f}" for name, c in row["classes"].items() if c["f1"] is not None)
    f1 = "-" if row["f1"] is None else f"{row['f1']:.3f}"
    return f"  consistency F1 {f1} ({classes}), {100 * row['agree']:.0f} % of plans do what was decided"


def _three(row: Mapping[str, Any]) -> str:
    values = [row.get(f"p{p}") for p in PERCENTILES]
    return "".join(f"{'-' if value is None else f'{value:.1f}':>9}" for value in values)
