"""The lists of clips that everybody trains and evaluates on, with the hash of each clip."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from senna2_sim.scenarios import FAMILIES, FIRST_FAMILIES, load_clip
from senna2_sim.scenarios.cues import cue_of
from senna2_sim.scenarios.digest import clip_hash
from senna2_sim.world.types import GENERATOR_VERSION

Split = Literal["train", "eval"]
COUNTS: dict[Split, int] = {"train": 1044, "eval": 256}  # as in the Senna-2 paper (arXiv:2603.11219), 4.1
FIRST_FAMILIES_COUNTS: dict[Split, int] = {"train": 368, "eval": 91}  # of FIRST_FAMILIES: networks know these clips
FIRST_SEED: dict[Split, int] = {"train": 0, "eval": 1000}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One clip of a list."""

    family: str
    seed: int
    sha256: str  # the first digits, see digest.py
    cue: str | None  # that only the VLM can read, see cues.py
    generator: int = GENERATOR_VERSION

    @property
    def id(self) -> str:
        """As `Clip.id`."""
        return f"{self.family}-{self.seed:04d}"


def entry_of(family: str, seed: int) -> Entry:
    """Generate a clip and describe it."""
    clip = load_clip(family, seed)
    return Entry(family=family, seed=seed, sha256=clip_hash(clip), cue=cue_of(clip))


def members(split: Split) -> list[tuple[str, int]]:
    """(family, seed) of a split's clips. FIRST_FAMILIES keep what they had when there were only 20 families; the others
    share the rest evenly."""
    first = FIRST_SEED[split]
    chosen = []
    early = FIRST_FAMILIES_COUNTS[split]
    for families, count in ((FIRST_FAMILIES, early), (FAMILIES[len(FIRST_FAMILIES) :], COUNTS[split] - early)):
        each, rest = divmod(count, len(families))
        for number, family in enumerate(families):
            chosen += [(family, seed) for seed in range(first, first + each + (number < rest))]
    return chosen


@cache
def load_list(split: Split) -> tuple[Entry, ...]:
    """The committed list of a split. ValueError: made by another version of the generator."""
    file = files("senna2_sim.scenarios") / f"clips_{split}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["generator_version"] != GENERATOR_VERSION:
        raise ValueError(
            f"{file.name}: made by generator {content['generator_version']}, this is {GENERATOR_VERSION}; "
            "run python -m senna2_sim.clips write"
        )
    return tuple(Entry(family=f, seed=s, sha256=h, cue=c) for f, s, h, c in content["clips"])


def as_text(entries: list[Entry]) -> str:
    """A list as it is committed: JSON with one clip per line."""
    rows = ",\n".join(json.dumps([e.family, e.seed, e.sha256, e.cue]) for e in entries)
    fields = json.dumps(["family", "seed", "sha256", "cue"])
    return f'{{"generator_version": {GENERATOR_VERSION}, "fields": {fields}, "clips": [\n{rows}\n]}}\n'
