"""Which clips are driven: the committed lists by name, families and seeds, and fixed subsets of either."""

import hashlib
import re
from dataclasses import dataclass
from typing import get_args

from senna2_sim.scenarios import FAMILIES, load_clip
from senna2_sim.scenarios.cues import Cue
from senna2_sim.scenarios.lists import Entry, Split, load_list

SPLITS: tuple[Split, ...] = get_args(Split)
FILTERS = ("cue", "no_cue", *get_args(Cue))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One clip to drive."""

    family: str
    seed: int
    sha256: str | None = None  # that a list gives it; None: listed nowhere
    cue: str | None = None  # that a list says it carries

    @property
    def id(self) -> str:
        """As `Clip.id`."""
        return f"{self.family}-{self.seed:04d}"


def choose(text: str, subset: int | None = None) -> list[Choice]:
    """The clips of a description, each once, in its order.

    Args:
        text: comma-separated parts: `eval` or `train` (a committed list), LIST:FILTER with a family, a cue, `cue`
            (any) or `no_cue`; or FAMILY:SEED or FAMILY:FIRST-LAST, listed or not.
        subset: so many of them, a fixed choice: families and cues keep their shares, and the order is kept.
    Raises:
        ValueError: a part that is neither, an unknown family, no clips, or a subset of none.
    """
    listed = {(e.family, e.seed): e for split in SPLITS for e in load_list(split)}
    clips: dict[tuple[str, int], Choice] = {}
    for part in (part.strip() for part in text.split(",")):
        for family, seed in _members(part):
            entry = listed.get((family, seed))
            clips[family, seed] = Choice(
                family=family, seed=seed, sha256=entry.sha256 if entry else None, cue=entry.cue if entry else None
            )
    chosen = list(clips.values())
    if subset is None or subset >= len(chosen):
        return chosen
    if subset < 1:
        raise ValueError(f"subset: got {subset}, wanted at least 1 clip")
    ranked = sorted(chosen, key=lambda c: (c.family, c.cue or "", hashlib.sha256(c.id.encode()).digest()))
    kept = {ranked[int((k + 0.5) * len(ranked) / subset)] for k in range(subset)}
    return [clip for clip in chosen if clip in kept]


def _members(part: str) -> list[tuple[str, int]]:
    name, colon, rest = part.partition(":")
    for split in SPLITS:
        if name == split:
            found = [(e.family, e.seed) for e in load_list(split) if not colon or _passes(e, rest)]
            if not found:
                raise ValueError(f'clips: the list "{split}" holds no clip for "{part}"')
            return found
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", rest)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise ValueError(
            f'clips: got "{part}", wanted {" or ".join(SPLITS)}, one of them with :FAMILY or :CUE, FAMILY:SEED or '
            "FAMILY:FIRST-LAST, e.g. eval:curve or curve:5000-5019"
        )
    seeds = range(int(match[1]), int(match[2] or match[1]) + 1)
    for seed in {seeds[0], seeds[-1]}:
        load_clip(name, seed)  # unknown families and seeds are an error now, not after an hour
    return [(name, seed) for seed in seeds]


def _passes(entry: Entry, wanted: str) -> bool:
    match wanted:
        case "cue":
            return entry.cue is not None
        case "no_cue":
            return entry.cue is None
        case _ if wanted in FILTERS:
            return entry.cue == wanted
        case _ if wanted in FAMILIES:
            return entry.family == wanted
    known = ", ".join((*FILTERS, *FAMILIES))
    raise ValueError(f'clips: "{wanted}" is no family and no cue, wanted one of {known}')
