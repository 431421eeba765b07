"""All families at a glance, from the registry: `python -m senna2_sim.contact_sheet` writes docs/contact_sheet.jpg and
the table in docs/clips.md. Run it again after families, lists or the look of things have changed.
"""

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import tyro

from senna2_core.geometry import to_frame
from senna2_core.objects import Category
from senna2_sim.env import SimEnv
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import FAMILIES, load_clip, story
from senna2_sim.scenarios.lists import load_list
from senna2_sim.world.types import Clip
from senna2_sim.world.world import World

COLUMNS, BAND_PX, QUALITY = 4, 22, 85  # of the sheet; height of a label; of JPEG
LIGHTS = ("day", "dusk", "overcast")
SEEDS, CHOICE = range(60), 3  # the first of these with the wanted light are looked at
BRAKING_MPS2, NEAR_M = 1.0, 6.0  # less is not braking for something; nearer things fill the picture
BEGIN, END = "<!-- families -->", "<!-- end of families -->"
_FONT = cv2.FontFace("sans")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Contact sheet of all families, and the table of the page that shows it."""

    out: Path = Path("docs/contact_sheet.jpg")
    """JPEG file to write."""
    page: Path | None = Path("docs/clips.md")
    """Markdown page whose table is brought up to date."""


@dataclass(frozen=True)
class Moment:
    """When to look at a clip, and how much happens then."""

    clip: Clip
    time_s: float
    braking_mps2: float  # the hardest of the expert, positive


def candidates(number: int) -> list[Clip]:
    """Training clips of a family (its place in the registry), all in the light whose turn it is."""
    light = LIGHTS[number % len(LIGHTS)]
    clips = (load_clip(FAMILIES[number], seed) for seed in SEEDS)
    return list(islice((clip for clip in clips if clip.daylight == light), CHOICE)) or [load_clip(FAMILIES[number], 0)]


def telling_moment(clip: Clip) -> Moment:
    """When the front camera shows most of somebody: around the hardest braking; anywhere if it is not hard."""
    world = World(clip)
    times: list[float] = []
    speeds_up: list[float] = []
    shown: list[float] = []
    while not world.done:
        world.step(world.expert_plan)
        times.append(world.time_s)
        speeds_up.append(world.ego.acceleration_mps2)
        shown.append(_shown(world))
    hardest = int(np.argmin(speeds_up))
    first, last = (max(hardest - 5, 0), hardest + 20) if -speeds_up[hardest] > BRAKING_MPS2 else (0, len(times))
    best = first + int(np.argmax(shown[first:last])) if max(shown[first:last]) else (first + min(last, len(times))) // 2
    return Moment(clip, times[best], -speeds_up[hardest])


def _shown(world: World) -> float:
    """How tall the tallest road user stands in the front image: height over distance; people count double."""
    front = load_rig("small")["front"]
    here = np.flatnonzero(world.agent_visible)
    if not len(here):
        return 0.0
    centres = to_frame(world.agent_poses[here], world.ego.pose)[:, :2]
    heights = np.array([world.clip.agents[i].height_m for i in here])
    small = np.array([world.clip.agents[i].category in (Category.PEDESTRIAN, Category.CYCLIST) for i in here])
    pixels, depth = front.project(np.column_stack([centres, heights / 2]))
    inside = (depth > NEAR_M) & (pixels[:, 0] > 0) & (pixels[:, 0] < front.width)
    return float(np.max(np.where(inside, heights * (1 + small) / np.maximum(depth, NEAR_M), 0.0)))


def picture(moment: Moment) -> np.ndarray:
    """What the small rig's front camera sees when the expert has driven so far, (180, 320, 3) uint8 RGB."""
    env = SimEnv(moment.clip.family, moment.clip.seed)
    while env.world.time_s < moment.time_s - 1e-9:
        env.world.step(env.world.expert_plan)
    return env.images()["front"]


def sheet(labels: list[str], images: list[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) row by row, each with its label above: (H', W', 3) uint8 RGB."""
    cells = []
    for label, image in zip(labels, images, strict=True):
        band = np.full((BAND_PX, image.shape[1], 3), 24, np.uint8)
        cv2.putText(band, label, (6, BAND_PX - 7), (236, 240, 245), _FONT, 14, 400)
        cells.append(np.concatenate([band, image]))
    cells += [np.full_like(cells[0], 24)] * (-len(cells) % COLUMNS)
    return np.concatenate([np.concatenate(cells[i : i + COLUMNS], 1) for i in range(0, len(cells), COLUMNS)])


def table() -> str:
    """Markdown: families, what happens, how many clips the lists have, and how many carry a cue."""
    entries = {split: load_list(split) for split in ("train", "eval")}
    rows = ["| family | what happens | train | eval | cue, in how many of them |", "|---|---|---:|---:|---|"]
    for family in FAMILIES:
        own = {split: [e for e in listed if e.family == family] for split, listed in entries.items()}
        counted: dict[str, int] = {}
        for entry in (*own["train"], *own["eval"]):
            if entry.cue is not None:
                counted[entry.cue] = counted.get(entry.cue, 0) + 1
        cues = ", ".join(f"{cue.replace('_', ' ')} {count}" for cue, count in sorted(counted.items())) or "-"
        rows.append(f"| `{family}` | {story(family)} | {len(own['train'])} | {len(own['eval'])} | {cues} |")
    train, evaluation = entries["train"], entries["eval"]
    cued = sum(e.cue is not None for e in (*train, *evaluation))
    share = cued / (len(train) + len(evaluation))
    rows.append(f"| all | | {len(train)} | {len(evaluation)} | {cued} ({share:.0%}) |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """The page with its table renewed; ValueError when it has no place for one."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"page: no {BEGIN} ... {END}; put these two lines where the table belongs")
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def main(args: Args) -> int:
    """Write both files."""
    from PIL import Image
    from tqdm import trange

    labels, images = [], []
    for number in trange(len(FAMILIES), unit="family"):
        moment = max(map(telling_moment, candidates(number)), key=lambda moment: moment.braking_mps2)
        labels.append(f"{moment.clip.id}, {moment.clip.daylight}")
        images.append(picture(moment))
    seen = sheet(labels, images)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(seen).save(args.out, quality=QUALITY)
    print(f"{args.out}: {len(labels)} families, {seen.shape[1]}x{seen.shape[0]}, {args.out.stat().st_size // 1000} kB")
    if args.page is not None:
        args.page.write_text(with_table(args.page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{args.page}: table renewed")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Args)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
