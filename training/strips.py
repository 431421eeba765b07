"""`python -m training.evaluate strips`: a model beside a baseline, as pictures and films, on clips chosen by rule.

Of each family the worst and the median clip in the model's own order of danger (`training.tables.by_danger`). OUT has
two files of each, FAMILY-WHICH-CLIP-HASH: a .png with five moments from the front camera, the plan drawn in, and an
.mp4 with both drives side by side; strips.json lists them. What is there already is kept; the same command goes on
after Ctrl-C.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from senna2_sim.film import FPS, FRONT, compose, film, new_birdseye
from senna2_sim.rig import load_rig
from training.closed_loop_table import drives_folder, setup_of
from training.drives import Job, Setup, Step, drive_job
from training.films import LAST_PICTURE_S, moment
from training.ledger import sha256_of
from training.open_loop import GIVE_UP, REFERENCES, parse_models
from training.report_page import outcome
from training.rows import read_rows
from training.selection import Choice, choose
from training.tables import Row, by_danger, failed
from training.workers import Failure, quiet_threads, work_off

MOMENTS = 5
CELL = (416, 234)  # px, of a picture in a strip
HALF = (960, 540)  # px, of one drive in a film
BAR = 44  # px, above the drives in a film
Colour = tuple[int, int, int]  # RGB
INK: Colour = (28, 36, 48)
DIM: Colour = (104, 115, 133)
GOOD: Colour = (24, 140, 100)
BAD: Colour = (200, 50, 45)
_FONT = cv2.FontFace("sans")


@dataclass(frozen=True, kw_only=True)
class Strips:
    """A model beside a baseline: strips and films of the median and the worst clip of every family."""

    model: str
    """NAME=FOLDER."""
    baseline: str = "constant_velocity"
    """NAME=FOLDER, or expert or constant_velocity."""
    clips: str = "eval"
    """Which clips, as in closed-loop."""
    subset: int | None = None
    """So many of them: a fixed choice in which families and cues keep their shares."""
    drives: Path = Path("runs/closed_loop")
    """Where closed-loop-table drove both."""
    films: bool = True
    """Films, too."""
    out: Path = Path("runs/strips")
    """Folder."""
    workers: int = 2
    """Processes, one thread each."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One clip to show, for `show_pair`; the baseline first."""

    title: str
    names: tuple[str, str]
    rows: tuple[Row, Row]
    jobs: tuple[Job, Job]
    film: bool


@dataclass(frozen=True, eq=False)
class Shot:
    """One step of a drive."""

    time_s: float
    label: str  # speed and decision
    front: bytes  # JPEG, the front image with the plan
    whole: bytes  # JPEG, the film's picture


def main(args: Strips) -> list[dict[str, Any]]:
    """Make what is missing; returns what strips.json holds.

    Raises:
        ValueError: models or clips that were not driven, or a clip that goes another way than its row says.
    """
    quiet_threads()
    pairs = pairs_of(args)
    args.out.mkdir(parents=True, exist_ok=True)
    kinds = (".png", ".mp4") if args.films else (".png",)
    jobs = {name: pair for name, pair in pairs.items() if not all((args.out / (name + k)).exists() for k in kinds)}
    problems: list[str] = []
    name_of = {pair.title: name for name, pair in jobs.items()}

    def finish(pair: Pair, answer: Any) -> str:
        if isinstance(answer, Failure):
            problems.append(f"{pair.title}: {answer.reason}")
            return f"{len(problems)} did not run"
        for kind, data in answer.items():
            path = args.out / (name_of[pair.title] + kind)
            path.with_suffix(".tmp").write_bytes(data)
            path.with_suffix(".tmp").replace(path)
        return ""

    if jobs:
        work_off(show_pair, list(jobs.values()), args.workers, "strips", finish, lambda: len(problems) >= GIVE_UP)
    if problems:
        raise ValueError("\n".join([*problems, f"{args.out}: {len(problems)} strips failed, the others are there"]))
    for old in [*args.out.glob("*.png"), *args.out.glob("*.mp4")]:
        if old.stem not in pairs:
            old.unlink()  # of other drives
    listed = [
        {"title": p.title, "clip": p.rows[1]["clip"], "family": p.rows[1]["family"], "png": f"{name}.png"}
        | {"outcome": {n: outcome(row) for n, row in zip(p.names, p.rows, strict=True)}}
        | ({"mp4": f"{name}.mp4"} if (args.out / f"{name}.mp4").exists() else {})
        for name, p in pairs.items()
    ]
    (args.out / "strips.json").write_text(json.dumps(listed, indent=1) + "\n")
    print(f"{args.out}: {len(listed)} strips")
    return listed


def pairs_of(args: Strips) -> dict[str, Pair]:
    """What to show by the name of its files."""
    named = [_named(text) for text in (args.baseline, args.model)]
    names, setups = tuple(name for name, _ in named), tuple(setup for _, setup in named)
    chosen = {clip.id: clip for clip in choose(args.clips, args.subset)}
    both = [driven(args.drives, setup, list(chosen)) for setup in setups]
    pairs = {}
    for family in dict.fromkeys(clip.family for clip in chosen.values()):
        for which, row in pick([row for row in both[1].values() if row["family"] == family]).items():
            clip, rows = chosen[row["clip"]], (both[0][row["clip"]], row)
            pair = Pair(
                title=f"{family}, {which} clip: {clip.id}", names=(names[0], names[1]), rows=rows,
                jobs=(_job(setups[0], clip, rows[0]), _job(setups[1], clip, rows[1])), film=args.films,
            )  # fmt: skip
            digest = sha256_of([names, [r["trajectory_sha256"] for r in rows]])[:8]
            pairs[f"{family}-{which}-{clip.id}-{digest}"] = pair
    return pairs


def pick(rows: list[Row]) -> dict[str, Row]:
    """The worst and the median row of a family, by `by_danger`; only the worst where there is but one."""
    ordered = by_danger(rows)
    return {"worst": ordered[0]} | ({"median": ordered[len(ordered) // 2]} if len(ordered) > 1 else {})


def driven(folder: Path, setup: Setup, clips: list[str]) -> dict[str, Row]:
    """The rows of a set-up by clip. ValueError: some are missing."""
    rows = read_rows(drives_folder(folder, setup))
    if missing := [clip for clip in clips if clip not in rows]:
        raise ValueError(
            f"{drives_folder(folder, setup)}: {len(missing)} of {len(clips)} clips were not driven, e.g. {missing[0]}; "
            f"drive them with `python -m training.evaluate closed-loop-table --out {folder}`"
        )
    return {clip: rows[clip] for clip in clips}


def show_pair(pair: Pair) -> dict[str, bytes]:
    """The files of a pair by ending. ValueError: a drive that did not go as its row says."""
    both = [shots(job, name) for job, name in zip(pair.jobs, pair.names, strict=True)]
    files = {".png": _encoded(".png", strip(pair, both))}
    if pair.film:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "film.mp4"
            write_film(file, pair, both)
            files[".mp4"] = file.read_bytes()
    return files


def shots(job: Job, name: str) -> list[Shot]:
    """A drive once more, with pictures of every step and of the end."""
    cameras, canvas, found = load_rig(job.setup.rig).cameras, new_birdseye(), []

    def watch(step: Step) -> None:
        told = moment(step, name)
        picture = compose(told, step.images, cameras, canvas)
        label = f"{3.6 * abs(told.ego.speed_mps):.0f} km/h"
        if told.check is not None:
            label += f", {told.check.decision.text}"
        front, half = picture[: FRONT[1], : FRONT[0]], cv2.resize(picture, HALF, interpolation=cv2.INTER_AREA)
        found.append(Shot(told.time_s, label, _encoded(".jpg", front), _encoded(".jpg", half)))

    row = drive_job(job, watch)
    if row["trajectory_sha256"] != job.trajectory_sha256:
        raise ValueError(
            f"{name} on {job.clip.id} went another way than its row says: code or machine have changed; remove the "
            "folder of its drives and drive again"
        )
    return found


def moments(baseline: list[Shot], model: list[Shot]) -> list[tuple[Shot, Shot]]:
    """Four moments of both drives, evenly spread over the shorter of them, and the end of each."""
    shorter = min(len(baseline), len(model)) - 1
    steps = [round(shorter * k / MOMENTS) for k in range(1, MOMENTS)]
    return [(baseline[s], model[s]) for s in steps] + [(baseline[-1], model[-1])]


def strip(pair: Pair, both: list[list[Shot]]) -> np.ndarray:
    """Five moments of the baseline above, the same five of the model below, (H, W, 3) uint8 RGB."""
    gap, head, line = 8, 54, 74
    image = new_picture(gap + MOMENTS * (CELL[0] + gap), head + 2 * (line + CELL[1]) + gap)
    at = gap + 4 + write(image, pair.title, (gap + 4, 38), 26, weight=600)
    if any(row["consistency"] is not None for row in pair.rows):
        write(image, "plan: green, orange where it does not do what was decided", (at + 24, 38), 17, DIM)
    for column, shown in enumerate(moments(*both)):
        for index, (shot, name, row) in enumerate(zip(shown, pair.names, pair.rows, strict=True)):
            x, y = gap + column * (CELL[0] + gap), head + index * (line + CELL[1])
            if column == 0:
                at = gap + 4 + write(image, name, (gap + 4, y + 34), 22, weight=600)
                write(image, _ending(row), (at + 16, y + 34), 20, BAD if failed(row) else GOOD)
            write(image, f"{shot.time_s:.1f} s: {shot.label}", (x + 4, y + line - 10), 17, DIM)
            picture = cv2.resize(_picture(shot.front), CELL, interpolation=cv2.INTER_AREA)
            image[y + line : y + line + CELL[1], x : x + CELL[0]] = picture
    return image


def write_film(out: Path, pair: Pair, both: list[list[Shot]]) -> None:
    """Both drives side by side, the baseline on the left; the one that is over waits for the other."""
    steps = max(map(len, both))
    with film(out, (2 * HALF[0], HALF[1] + BAR)) as add:
        for step in range(steps):
            image = new_picture(2 * HALF[0], HALF[1] + BAR)
            for index, (own, name, row) in enumerate(zip(both, pair.names, pair.rows, strict=True)):
                x = index * HALF[0]
                image[BAR:, x : x + HALF[0]] = _picture(own[min(step, len(own) - 1)].whole)
                at = x + 14 + write(image, name, (x + 14, 31), 24, INK, weight=600)
                if step >= len(own) - 1:
                    write(image, _ending(row), (at + 16, 31), 22, BAD if failed(row) else GOOD)
            for _ in range(1 if step < steps - 1 else round(LAST_PICTURE_S * FPS)):
                add(image)


def _ending(row: Row) -> str:
    return f"{outcome(row)}, {row['duration_s']:.1f} s"


def _named(text: str) -> tuple[str, Setup]:
    if text in REFERENCES:
        return text, setup_of(text)
    ((name, folders),) = parse_models((text,)).items()
    return name, setup_of(folders[0])


def _job(setup: Setup, clip: Choice, row: Row) -> Job:
    return Job(setup=setup, clip=clip, trajectory_sha256=row["trajectory_sha256"])


def new_picture(width: int, height: int) -> np.ndarray:
    """White, (height, width, 3) uint8 RGB."""
    return np.full((height, width, 3), 255, np.uint8)


def write(
    image: np.ndarray, text: str, at: tuple[int, int], size: int, colour: Colour = INK, *, weight: int = 400
) -> int:
    """Write text, its base line starting at a pixel. Returns its width, px."""
    cv2.putText(image, text, at, colour, _FONT, size, weight)
    return int(cv2.getTextSize((0, 0), text, (0, 0), _FONT, size, weight)[2])


def _encoded(kind: str, picture: np.ndarray) -> bytes:
    """kind: .png or .jpg."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if kind == ".jpg" else []
    done, data = cv2.imencode(kind, np.ascontiguousarray(picture[..., ::-1]), quality)
    assert done
    return data.tobytes()


def _picture(jpeg: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded[..., ::-1])
