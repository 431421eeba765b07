"""Clips of the driving benchmark: `python -m senna2_sim.clips list|show|render|check|write`."""

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from senna2_core.actions import words
from senna2_core.objects import Category
from senna2_sim.scenarios import FAMILIES, clip_named, load_clip
from senna2_sim.scenarios.lists import Entry, Split, as_text, entry_of, load_list, members
from senna2_sim.world.types import Clip
from senna2_sim.world.world import World


@dataclass(frozen=True, kw_only=True)
class List:
    """Families, counts and cues of the committed lists, or one line per clip."""

    split: Split | None = None
    """One list only, with one line per clip."""
    family: str | None = None
    """One family only."""
    seeds: str | None = None
    """Any clips of the family, listed or not: SEED or FIRST-LAST, e.g. 5000-5063."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """What a clip consists of."""

    clip: tyro.conf.Positional[str]
    """FAMILY-SEED, e.g. cut_in-0007."""


@dataclass(frozen=True, kw_only=True)
class Render:
    """A contact sheet: what the front camera sees while the expert drives the clip."""

    clip: tyro.conf.Positional[str]
    """FAMILY-SEED, e.g. cut_in-0007."""
    out: Path | None = None
    """PNG file; default: CLIP.png here."""
    frames: int = 12
    """How many, spread over the clip."""
    camera: str = "front"
    """Of the rig."""
    rig: str = "small"
    """Cameras."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Generate the listed clips again and compare their hashes; exit code 1 when one differs."""

    split: Split | None = None
    """One list only."""
    family: str | None = None
    """One family only."""


@dataclass(frozen=True, kw_only=True)
class Write:
    """Write both lists anew, after the generator has changed."""

    out: Path = Path(__file__).parent / "scenarios"
    """Folder."""


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Write, tyro.conf.subcommand("write")]
)
SPLITS: tuple[Split, ...] = ("train", "eval")


def seed_range(text: str) -> range:
    """ "7" or "5000-5063", both ends included; ValueError says what is wanted."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise ValueError(f'seeds: got "{text}", wanted SEED or FIRST-LAST, e.g. 5000-5063')
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def entries(split: Split | None, family: str | None) -> list[Entry]:
    """Those of the lists that are asked for; ValueError when there are none."""
    if family is not None and family not in FAMILIES:
        load_clip(family, 0)  # says which families there are
    chosen = [e for s in SPLITS if split in (None, s) for e in load_list(s) if family in (None, e.family)]
    if not chosen:
        raise ValueError(f"clip lists: no clips of {family} in {split or 'either list'}")
    return chosen


def line_of(entry: Entry) -> str:
    """One clip in one line."""
    return f"{entry.id:32s} {entry.sha256}  {entry.cue or '-'}"


def listing(args: List) -> str:
    """The answer to `list`."""
    if args.seeds is not None:
        if args.family is None:
            raise ValueError("list --seeds: got no --family, wanted one of " + ", ".join(FAMILIES))
        return "\n".join(line_of(entry_of(args.family, seed)) for seed in seed_range(args.seeds))
    chosen = entries(args.split, args.family)
    if args.split is not None or args.family is not None:
        return "\n".join(map(line_of, chosen))
    rows = [f"{'family':26s} train  eval  with a cue"]
    for family in FAMILIES:
        own = [e for e in chosen if e.family == family]
        late = sum(e.seed >= 1000 for e in own)
        rows.append(
            f"{family:26s} {len(own) - late:5d} {late:5d}  {sum(e.cue is not None for e in own) / len(own):10.0%}"
        )
    cues = Counter(e.cue for e in chosen if e.cue is not None)
    rows.append(
        f"{'all':26s} {len(load_list('train')):5d} {len(load_list('eval')):5d}  {cues.total() / len(chosen):10.0%}"
    )
    return "\n".join([*rows, *(f"  {cue}: {count} clips" for cue, count in cues.items())])


def description(clip: Clip) -> str:
    """The answer to `show`."""
    entry = entry_of(clip.family, clip.seed)
    rows = [
        f"{clip.id}  generator {entry.generator}, hash {entry.sha256}, cue {entry.cue or 'none'}",
        f"{clip.duration_s:.0f} s, {clip.daylight}, limit {3.6 * clip.speed_limit_mps:.0f} km/h, "
        f"start at {3.6 * clip.start_speed_mps:.0f} km/h",
        f"road: {len(clip.road.lanes)} lanes, {len(clip.road.lights)} lights, {len(clip.road.crossings)} crossings",
    ]
    rows += [f"sign {s.kind}{f' {3.6 * s.limit_mps:.0f} km/h' if s.limit_mps else ''}" for s in clip.road.signs]
    for m in clip.manoeuvres:
        said = ", then ".join(f'"{text}"' for _, text in m.words) or ("as usual" if m.announced else "nothing")
        rows.append(
            f"{words(m.action)}, {m.start_m - clip.start_station_m:.0f} m after the start; navigation says {said}"
        )
    for a in clip.agents:
        params = ", ".join(f"{k} {v:.4g}" for k, v in sorted(a.params.items()))
        rows.append(
            f"  {a.id:3d} {Category(a.category).name.lower():10s} {a.start_speed_mps:5.1f} m/s  {a.behaviour}: {params}"
        )
    return "\n".join(rows)


def sheet(clip: Clip, *, frames: int, camera: str, rig: str, columns: int = 3) -> np.ndarray:
    """Frames of one camera, evenly spread over the expert's drive, row by row: (H, W, 3) uint8 RGB."""
    from senna2_sim.rig import load_rig  # the renderer and its compiler load only here
    from senna2_sim.scene import build_scene

    cameras = load_rig(rig)
    if camera not in (names := [c.name for c in cameras.cameras]):
        raise ValueError(f'rig {rig}: no camera "{camera}", it has {", ".join(names)}')
    scene, world = build_scene(clip), World(clip)
    pictures: list[np.ndarray] = []
    while not world.done and len(pictures) < frames:
        if world.time_s >= len(pictures) * clip.duration_s / frames - 1e-9:
            seen = scene.render(
                cameras, world.ego.pose, world.agent_poses, agent_brake=world.agent_brake,
                agent_indicator=world.agent_indicator, light_colours=world.light_colours, visible=world.agent_visible,
            )  # fmt: skip
            pictures.append(seen[camera])
        world.step(world.expert_plan)
    blank = np.zeros_like(pictures[0])
    pictures += [blank] * (-len(pictures) % columns)
    return np.concatenate([np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)])


def differing(chosen: list[Entry]) -> list[str]:
    """Lines about the clips that the generator does not make as they are listed."""
    made = ((entry, entry_of(entry.family, entry.seed)) for entry in chosen)
    return [f"{e.id}: listed as {e.sha256}, made as {m.sha256}" for e, m in made if e != m]


def main(command: Any) -> int:
    """Run a command; 1 when `check` finds a difference."""
    match command:
        case List():
            print(listing(command))
        case Show():
            print(description(clip_named(command.clip)))
        case Render():
            from PIL import Image

            picture = sheet(clip_named(command.clip), frames=command.frames, camera=command.camera, rig=command.rig)
            out = command.out or Path(f"{command.clip}.png")
            Image.fromarray(picture).save(out)
            print(f"{out}: {picture.shape[1]}x{picture.shape[0]}, row by row in time")
        case Check():
            chosen = entries(command.split, command.family)
            wrong = differing(chosen)
            print("\n".join([*wrong, f"{len(chosen) - len(wrong)} of {len(chosen)} clips are as listed"]))
            return int(bool(wrong))
        case Write():
            for split in SPLITS:
                path = command.out / f"clips_{split}.json"
                path.write_text(as_text([entry_of(*member) for member in members(split)]), encoding="utf-8")
                print(path)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Command, description=__doc__)))  # type: ignore[call-overload]
    except ValueError as error:
        sys.exit(f"error: {error}")
