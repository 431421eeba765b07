"""What keeps stage 3 from collapsing, and the book that it keeps of its rounds. Pure but for reading and writing that.

A policy that is punished for danger alone ends up standing still. So the best checkpoint is the one with the fewest
at-fault collisions among those that still make their way, and one that is safer for making less way raises an alarm.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["best", "on", "return", "alarm"]  # what the last two mean: the best checkpoint's weights come back


@dataclass(frozen=True, kw_only=True)
class Score:
    """How the validation clips were driven."""

    at_fault: float  # share of clips with an at-fault collision
    failures: float  # share of clips that go wrong in any way
    safety_2s: float  # share of clips whose time to collision stays above 2 s
    progress: float  # mean share of the expert's progress

    @property
    def rank(self) -> tuple[float, float, float]:
        """The smaller, the better: at-fault collisions first, then all failures, then progress."""
        return self.at_fault, self.failures, -self.progress


@dataclass(frozen=True, kw_only=True)
class Validated:
    """A validation and what came of it; the first one is that of the policy that stage 3 started from."""

    round: int
    score: Score
    verdict: Verdict


def score_of(figures: dict[str, float]) -> Score:
    """From `round_drives.figures`."""
    return Score(
        at_fault=figures["AF-CR"],
        failures=figures["failures"],
        safety_2s=figures["Safety@2"],
        progress=figures["progress"],
    )


def best_of(history: Sequence[Validated]) -> Validated:
    """The checkpoint that is kept so far. ValueError: nothing was validated."""
    if not history:
        raise ValueError("guard: got no validation, wanted at least that of the start")
    return [one for one in history if one.verdict == "best"][-1]


def stands_still(score: Score, start: Score, floor: float) -> bool:
    """Safer than the start (fewer at-fault collisions, or as many and more clips above 2 s) for making less than
    `floor` of its progress."""
    safer = (score.at_fault, -score.safety_2s) < (start.at_fault, -start.safety_2s)
    return score.progress < floor * start.progress and safer


def judge(history: Sequence[Validated], score: Score, *, floor: float, patience: int) -> Verdict:
    """What to do after a validation.

    Args:
        history: the validations before, the start's first.
        score: the new one.
        floor: share of the start's progress that a checkpoint must make to be the best.
        patience: so many validations without a new best, then the best one comes back; 0: it never does.
    Returns:
        "best": keep it; "alarm": see `stands_still`; "return": patience is over; "on": otherwise.
    """
    if not history:
        return "best"
    start = history[0].score
    if stands_still(score, start, floor):
        return "alarm"
    if score.progress >= floor * start.progress and score.rank < best_of(history).score.rank:
        return "best"
    waited = 1
    for one in reversed(history):
        if one.verdict != "on":
            break
        waited += 1
    return "return" if 0 < patience <= waited else "on"


def alarm_text(round_number: int, score: Score, history: Sequence[Validated], floor: float) -> str:
    """What an alarm says."""
    start, best = history[0].score, best_of(history)
    return (
        f"ALARM, round {round_number}: safe by standing still. Progress {score.progress:.2f} is below {floor:.2f} of "
        f"the start's {start.progress:.2f}, while at-fault collisions went from {start.at_fault:.2f} to "
        f"{score.at_fault:.2f} and safety at 2 s from {start.safety_2s:.2f} to {score.safety_2s:.2f}. The best "
        f"policy is that of round {best.round}. Give --anchor more weight, or --lr less"
    )


# -- the book ----------------------------------------------------------------------------------------------------------

Round = dict[str, Any]  # "round", and where there are any "driven", "trained", "seconds", "validation", "verdict"


def write_rounds(file: Path, rounds: Sequence[Round]) -> None:
    """All rounds so far, one line each; a kill leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(one, allow_nan=False) + "\n" for one in rounds)
    file.with_suffix(".tmp").write_text(text)
    file.with_suffix(".tmp").replace(file)


def read_rounds(file: Path, upto: int) -> list[Round]:
    """Rounds 0 to upto of the book; none where there is no book. ValueError: a line is no round."""
    if not file.exists():
        return []
    try:
        rounds = [json.loads(line) for line in file.read_text().splitlines()]
        return [one for one in rounds if one["round"] <= upto]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not the book of a run ({error!r}); leave --resume out to begin anew") from error


def history_of(rounds: Sequence[Round]) -> list[Validated]:
    """The validations among them."""
    return [
        Validated(round=one["round"], score=score_of(one["validation"]), verdict=one["verdict"])
        for one in rounds
        if "validation" in one
    ]
