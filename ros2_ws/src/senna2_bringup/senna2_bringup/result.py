"""What one drive amounts to, read from its bag: the figures of result.json and of the report. No ROS."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from senna2_core.agreement import RATIO_AT_S, agreement, codes_of, following, planned_speeds
from senna2_core.bags import bag_topics, read_bag
from senna2_core.messages import (
    Consistency,
    GroundTruth,
    read_consistency,
    read_ground_truth,
    read_map,
    read_navigation,
    read_odometry,
    read_trajectory,
    stamp_ns,
)
from senna2_core.objects import EgoState, MapElements, Navigation

RESET, COLLISION, END = 0, 1, 2  # SimEvent.kind
_OF_STEPS = {  # topics with a message per step, and the field of Drive that holds them
    "/ego/odometry": "ego",
    "/ego/navigation": "navigation",
    "/planner/trajectory": "plans",
    "/planner/consistency": "consistency",
    "/vlm/decision": "decisions",
    "/sim/ground_truth": "truth",
}


@dataclass
class Drive:
    """One episode, by stamp ns where that is the key. Everything small; images stay in the bag."""

    facts: dict[str, Any] = field(default_factory=dict)  # clip, seed, driver, mode, rig, duration_s, wall_s
    ended: bool = False  # the clip came to its end
    ego: dict[int, EgoState] = field(default_factory=dict)
    navigation: dict[int, Navigation] = field(default_factory=dict)
    plans: dict[int, np.ndarray] = field(default_factory=dict)  # (40, 3) in base_link
    consistency: dict[int, Consistency] = field(default_factory=dict)
    plan_age_s: dict[int, float] = field(default_factory=dict)  # clock when the recorder heard the plan - its stamp
    decisions: dict[int, tuple[str, float, bool]] = field(default_factory=dict)  # text, highest probability, forced
    truth: dict[int, GroundTruth] = field(default_factory=dict)
    map: MapElements = field(default_factory=MapElements.empty)
    events: list[tuple[int, str]] = field(default_factory=list)  # collisions and errors
    diagnostics: dict[str, dict[str, str]] = field(default_factory=dict)  # newest by node

    @property
    def stamps(self) -> list[int]:
        """Of all steps."""
        return sorted(self.truth)

    @property
    def start_ns(self) -> int:
        """Stamp of the first step."""
        return self.stamps[0] if self.truth else 0

    def seconds(self, stamp: int) -> float:
        """Since the start."""
        return (stamp - self.start_ns) / 1e9

    @property
    def forced(self) -> dict[int, Consistency]:
        """The ticks whose decision an operator forced."""
        known = np.array(sorted(stamp for stamp, (*_, forced) in self.decisions.items() if forced), dtype=np.int64)
        return {stamp: c for stamp, c in self.consistency.items() if _contains(known, _decided_ns(c))}

    def is_far(self, camera: str, stamp: int) -> bool:
        """Whether a camera's frame was far from every captured view; False where the views are not known."""
        spans = self.facts.get("far_ms", {}).get(camera, [])
        return any(first <= stamp // 1_000_000 <= last for first, last in spans)


def load_drive(bag: Path) -> Drive:
    """The last episode in a bag, however short: what is stamped at its RESET or later, in whatever order it came.

    Raises:
        ValueError: no readable bag.
    """
    topics = [topic for topic in (*_OF_STEPS, "/sim/map", "/sim/events", "/diagnostics") if topic in bag_topics(bag)]
    drive, start = Drive(), 0
    previous: EgoState | None = None
    for topic, heard_ns, msg in read_bag(bag, topics):
        if topic in _OF_STEPS and stamp_ns(msg.header) < start:
            continue
        match topic:
            case "/sim/events" if msg.kind == RESET:
                start = stamp_ns(msg.header)
                drive = _since(start, drive, json.loads(msg.text))
            case "/sim/events" if msg.kind == END:
                drive.ended = True
                drive.facts |= json.loads(msg.text)
            case "/sim/events":
                drive.events.append((stamp_ns(msg.header), str(msg.text)))
            case "/ego/odometry":
                previous = drive.ego[stamp_ns(msg.header)] = read_odometry(msg, previous)
            case "/ego/navigation":
                drive.navigation[stamp_ns(msg.header)] = read_navigation(msg)
            case "/planner/trajectory":
                drive.plans[stamp_ns(msg.header)] = read_trajectory(msg)
            case "/planner/consistency":
                stamp = stamp_ns(msg.header)
                drive.consistency[stamp] = read_consistency(msg)
                drive.plan_age_s[stamp] = (heard_ns - stamp) / 1e9
            case "/vlm/decision":
                said = str(msg.text), float(np.max(msg.probabilities)), bool(msg.forced)
                drive.decisions[stamp_ns(msg.header)] = said
            case "/sim/ground_truth":
                drive.truth[stamp_ns(msg.header)] = read_ground_truth(msg)
            case "/sim/map":
                drive.map = read_map(msg)
            case "/diagnostics":
                for status in msg.status:
                    drive.diagnostics[status.name] = {item.key: item.value for item in status.values}
    return drive


def _since(start_ns: int, drive: Drive, facts: dict[str, Any]) -> Drive:
    """An episode that begins now, with those of its messages that came before the news of its beginning."""
    since = Drive(facts=facts, map=drive.map, diagnostics=drive.diagnostics)
    for name in _OF_STEPS.values():
        setattr(since, name, {stamp: value for stamp, value in getattr(drive, name).items() if stamp >= start_ns})
    return since


def clip_id(facts: dict[str, Any]) -> str:
    """Family-seed, e.g. follow_stop-0007; the name alone of a scene from outside."""
    if facts.get("scene"):
        return str(facts["clip"])
    return f"{facts['clip']}-{facts['seed']:04d}" if facts.get("clip") else "unknown clip"


def trajectory_sha256(plans: dict[int, np.ndarray]) -> str:
    """Hash of all published trajectories with their stamps."""
    digest = hashlib.sha256()
    for stamp in sorted(plans):
        digest.update(stamp.to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(plans[stamp], dtype="<f4").tobytes())
    return digest.hexdigest()


def summarise(drive: Drive) -> dict[str, Any]:
    """The figures of result.json; null where a run was too short or a driver has none."""
    last = drive.truth[drive.stamps[-1]] if drive.truth else None
    figures = agreement(*codes_of(drive.consistency))
    ages = [c.decision_age_s for c in drive.consistency.values()]
    realtime = drive.facts.get("mode") == "realtime"
    sim = drive.diagnostics.get("sim", {})
    wall_s = float(drive.facts["wall_s"] if drive.ended else sim.get("wall_s", 0.0))
    duration_s = drive.seconds(drive.stamps[-1]) if drive.truth else 0.0
    return {
        "clip": drive.facts.get("clip"),
        "seed": drive.facts.get("seed"),
        "scene": drive.facts.get("scene"),
        "driver": drive.facts.get("driver"),
        "mode": drive.facts.get("mode"),
        "end": drive.facts.get("end") or None,
        "collided": last.collided if last else None,
        "at_fault": last.at_fault if last else None,
        "min_ttc_s": round(last.min_ttc_s, 3) if last and math.isfinite(last.min_ttc_s) else None,
        "progress_m": round(last.progress_m, 3) if last else None,
        "duration_s": round(duration_s, 3),
        "real_time_factor": round(duration_s / wall_s, 3) if wall_s > 0 else None,
        "consistency": figures["agree"] if figures else None,
        "consistency_f1": figures,
        "forced": forced_figures(drive),
        "mean_decision_age_s": round(float(np.mean(ages)), 3) if ages else None,
        "decision_age_s": _spread(ages),
        "plan_age_s": _spread(list(drive.plan_age_s.values())) if realtime else None,
        "far_from_captures": far_from_captures(drive.facts if drive.ended else sim),
        "plans": len(drive.plans),
        "trajectory_sha256": trajectory_sha256(drive.plans),
    }


def forced_figures(drive: Drive) -> dict[str, Any] | None:
    """`senna2_core.agreement.following` over the ticks whose decision was forced; None where none was."""
    forced = {stamp: c for stamp, c in drive.forced.items() if stamp in drive.ego and stamp in drive.plans}
    speeds = np.array([drive.ego[stamp].speed_mps for stamp in forced])
    return following(*codes_of(forced), speeds, np.array([_later(drive.plans[stamp]) for stamp in forced]))


def _later(plan: np.ndarray) -> float:
    """Planned speed RATIO_AT_S later, m/s; NaN where the plan (T, 3) ends before."""
    return float(planned_speeds(plan[None], RATIO_AT_S)[0]) if len(plan) > round(RATIO_AT_S / 0.1) else math.nan


def _decided_ns(check: Consistency) -> int:
    """Stamp of the decision behind a tick, within the rounding of its age."""
    return check.stamp_ns - round(check.decision_age_s * 1e9)


def _contains(known_ns: np.ndarray, stamp: int) -> bool:
    """Whether a stamp is among the sorted ones, within 1 ms: ages are float32."""
    first, last = np.searchsorted(known_ns, [stamp - 1_000_000, stamp + 1_000_000])
    return bool(first < last)


def _spread(values: list[float]) -> dict[str, float] | None:
    """Mean, 95th percentile and maximum."""
    if not values:
        return None
    figures = {"mean": np.mean(values), "p95": np.percentile(values, 95), "max": np.max(values)}
    return {name: round(float(value), 3) for name, value in figures.items()}


def far_from_captures(facts: Mapping[str, Any]) -> dict[str, float] | None:
    """Share of frames, of all cameras and of each, that were far from every captured view; None: views unknown."""
    steps = int(facts.get("steps", 0))
    far = {k.removeprefix("far_steps_"): int(v) / steps for k, v in facts.items() if k.startswith("far_steps_")}
    return {k: round(v, 4) for k, v in {"all": float(np.mean(list(far.values()))), **far}.items()} if far else None


def timings(drive: Drive) -> list[tuple[str, str, int, float, float]]:
    """Where the wall time goes: node, what, count, mean ms, 95th percentile ms."""
    rows = []
    for node, values in sorted(drive.diagnostics.items()):
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for key, value in values.items():
            for ending in ("_count", "_mean_ms", "_p95_ms"):
                if key.endswith(ending):
                    found[key.removesuffix(ending)][ending] = value
        for what, row in found.items():
            if len(row) == 3:
                rows.append((node, what, int(row["_count"]), float(row["_mean_ms"]), float(row["_p95_ms"])))
    return rows
