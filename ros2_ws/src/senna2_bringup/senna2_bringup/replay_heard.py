"""What was heard during a replay: the lines that the scorer wrote. No ROS.

A line is a JSON object: topic, stamp_ns (of the message), sent_ns (wall time at which it was published); a trajectory
has plan ((40, 3) x m, y m, yaw rad in base_link), a consistency the decision (speed and direction code) and its age_s;
{"error": TEXT} is what a node complained of.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from senna2_bringup.replay_bag import ReplayBag, input_topics

TOKENS, DECISION, CONDITION = "/perception/scene_tokens", "/vlm/decision", "/planner/vlm_condition"
PLAN, CHECK = "/planner/trajectory", "/planner/consistency"
OUTPUTS = (TOKENS, DECISION, CONDITION, PLAN, CHECK)
NODES = ("perception", "vlm", "adapter", "planner", "all")


@dataclass(eq=False)
class Heard:
    """Everything by topic and stamp ns; of what was sent twice, the first."""

    sent_ns: dict[str, dict[int, int]] = field(default_factory=dict)
    plans: dict[int, np.ndarray] = field(default_factory=dict)  # (40, 3) float32 base_link
    decisions: dict[int, tuple[int, int]] = field(default_factory=dict)  # by stamp of the plan: codes
    decision_age_s: dict[int, float] = field(default_factory=dict)  # by stamp of the plan
    errors: dict[str, int] = field(default_factory=dict)  # text -> how often


def read_heard(file: Path) -> Heard:
    """All whole lines of a file; a cut one at the end is left out."""
    heard = Heard()
    for line in file.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "error" in row:
            heard.errors[row["error"]] = heard.errors.get(row["error"], 0) + 1
            continue
        stamp = row["stamp_ns"]
        heard.sent_ns.setdefault(row["topic"], {}).setdefault(stamp, row["sent_ns"])
        if "plan" in row:
            heard.plans.setdefault(stamp, np.array(row["plan"], dtype=np.float32))
        elif "decision" in row:
            heard.decisions.setdefault(stamp, (row["decision"][0], row["decision"][1]))
            heard.decision_age_s.setdefault(stamp, row["age_s"])
    return heard


def latencies_ms(bag: ReplayBag, heard: Heard) -> dict[str, dict[int, float]]:
    """How long each node took, by stamp of its output: from the sending of its last input to that of its output.

    "all" is from the last input of the stack to the trajectory.
    """
    sent = {topic: heard.sent_ns.get(topic, {}) for topic in (*input_topics(bag.cameras), *OUTPUTS)}
    inputs = input_topics(bag.cameras)
    seen_by_vlm = tuple(t for t in inputs if not t.startswith("/camera/") or t == "/camera/front/compressed")

    def since(topics: tuple[str, ...], stamp: int) -> int | None:
        times = [sent[topic].get(stamp) for topic in topics]
        return None if None in times else max(t for t in times if t is not None)

    def after_condition(stamp: int) -> int | None:
        begun = since((TOKENS, "/ego/odometry"), stamp)
        if begun is None or stamp not in heard.decision_age_s:
            return begun
        used = _nearest(sent[CONDITION], stamp - round(heard.decision_age_s[stamp] * 1e9))
        return begun if used is None else max(begun, used)

    begun = {
        "perception": (TOKENS, lambda stamp: since(inputs, stamp)),
        "vlm": (DECISION, lambda stamp: since(seen_by_vlm, stamp)),
        "adapter": (CONDITION, lambda stamp: since((DECISION,), stamp)),
        "planner": (PLAN, after_condition),
        "all": (PLAN, lambda stamp: since(inputs, stamp)),
    }
    return {
        name: {s: (sent[out][s] - at) / 1e6 for s in sorted(sent[out]) if (at := start(s)) is not None}
        for name, (out, start) in begun.items()
    }


def ages_ms(bag: ReplayBag, heard: Heard, realtime: bool) -> dict[str, dict[int, float]]:
    """How old the frames behind a plan are when it is published, by stamp of the plan, in the bag's time.

    Those that perception saw (planner and all: the same) and those that the decision was made from (vlm, adapter). In
    lockstep time stands still while the stack computes; in realtime it goes on at the pace of the player.
    """
    whole = latencies_ms(bag, heard)["all"]
    pace = played_rate(heard) if realtime else 0.0
    plan = {stamp: (pace or 0.0) * ms for stamp, ms in whole.items()}
    decision = {s: plan[s] + 1e3 * age for s, age in sorted(heard.decision_age_s.items()) if s in plan}
    return {"perception": plan, "vlm": decision, "adapter": decision, "planner": plan}


def played_rate(heard: Heard) -> float | None:
    """Seconds of the bag per second of wall time; None when fewer than two messages were heard."""
    sent = heard.sent_ns.get("/ego/odometry", {})
    if len(sent) < 2:
        return None
    first, last = min(sent), max(sent)
    return (last - first) / max(sent[last] - sent[first], 1)


def _nearest(sent: dict[int, int], stamp: int, within_ns: int = 1_000_000) -> int | None:
    """When the message of (nearly, ages are float32) this stamp was sent."""
    close = [s for s in sent if abs(s - stamp) <= within_ns]
    return sent[min(close, key=lambda s: abs(s - stamp))] if close else None
