"""`python -m training.evaluate forced-drives`: speed and mileage under fixed decisions on an empty road (figure F4).

Each speed action is forced on the VLM from start to end, with "straight", and the stack drives in closed loop.
OUT/forced_drives.png has the curves, OUT/forced_drives.json the numbers; drives of the same weights are kept.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from senna2_core.actions import Decision, DirectionAction, SpeedAction, words
from senna2_core.kinematics import kinematic_mapping
from training.closed_loop_table import setup_of
from training.drives import Setup, Step, drive_clip
from training.ledger import git_commit, sha256_of
from training.open_loop import finite, parse_models
from training.plots import ACTION_COLOURS, label, legend, new_figure, save_figure
from training.selection import Choice, choose
from training.trained import present
from training.workers import quiet_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORCED = (SpeedAction.ACCELERATE, SpeedAction.KEEP, SpeedAction.DECELERATE)
WIDTH, ROW, HEAD = 1500, 360, 60  # px


@dataclass(frozen=True, kw_only=True)
class ForcedDrives:
    """Speed and mileage under forced decisions on an empty road, in closed loop (figure F4)."""

    models: tuple[str, ...]
    """NAME=FOLDER of dual systems; of several folders the first counts."""
    clip: str = "empty_road:1000"
    """FAMILY:SEED."""
    out: Path = Path("runs/forced_drives")
    """Folder."""


def main(args: ForcedDrives) -> dict[str, Any]:
    """Drive what is missing, draw the picture; returns what forced_drives.json holds.

    Raises:
        ValueError: no such clip, several of them, no model at all, or one that decides nothing.
    """
    quiet_threads()
    models, missing = present(parse_models(args.models))
    clip, *more = choose(args.clip)
    if more:
        raise ValueError(f"--clip: got {args.clip}, wanted one clip as FAMILY:SEED")
    setups = {name: setup_of(folders[0]) for name, folders in models.items()}
    if silent := [name for name, setup in setups.items() if setup.driver != "senna2"]:
        raise ValueError(
            f"--models: {', '.join(silent)} decides nothing that could be forced, wanted a VLM and adapter"
        )
    file = args.out / "forced_drives.json"
    old = json.loads(file.read_text())["models"] if file.is_file() else {}
    kept = {row["key_sha256"]: row for row in old.values()}
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"clip": clip.id, "missing": missing, "models": {}}
    for name, setup in setups.items():
        key = sha256_of([setup.key(), clip.id, clip.sha256])
        result["models"][name] = kept.get(key) or _drive_all(setup, clip, key, name)
        file.write_text(json.dumps(finite(result), indent=1, allow_nan=False) + "\n")
    save_figure(args.out / "forced_drives.png", picture(result))
    for name, text in missing.items():
        print(f"{name}: {text}")
    print(args.out / "forced_drives.png")
    return result


def _drive_all(setup: Setup, clip: Choice, key: str, name: str) -> dict[str, Any]:
    from training.common import seed_everything
    from training.driver import Driver

    seed_everything(setup.seed)
    driver = Driver.from_checkpoints(setup.checkpoints)
    drives = {}
    for speed in tqdm(FORCED, desc=f"{name}, forced", unit="drive"):
        drives[words(speed)] = drive_forced(driver, clip, Decision(speed, DirectionAction.STRAIGHT), setup.rig)
    return {"folder": setup.checkpoints, "key_sha256": key, "git_commit": git_commit(), "drives": drives}


def drive_forced(driver: Any, clip: Choice, decision: Decision, rig: str) -> dict[str, Any]:
    """One clip with a decision forced from its first frame on.

    Returns:
        time_s, speed_mps, mileage_m: at each step and at the end; followed: share of the plans whose f_K speed action
        is the forced one; ended: what happened, as its row of figures says.
    """
    times, speeds, places, shown = [], [], [], []

    def watch(step: Step) -> None:
        times.append(round(step.world.time_s, 3))
        speeds.append(round(float(step.world.ego.speed_mps), 4))
        places.append(step.world.ego.pose[:2].copy())
        if step.trajectory is not None:
            shown.append(int(kinematic_mapping(np.asarray(step.trajectory))[0]) == decision.speed)

    driver.forced = decision
    try:
        row = drive_clip(clip.family, clip.seed, driver, "senna2", rig, watch=watch)
    finally:
        driver.forced = None
    gone = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    return {
        "time_s": times,
        "speed_mps": speeds,
        "mileage_m": gone.round(3).tolist(),
        "followed": round(float(np.mean(shown)), 4),
        "ended": {name: row[name] for name in ("duration_s", "collided", "off_road", "lost")},
    }


def picture(result: dict[str, Any]) -> "Figure":
    """Speed and mileage over time, one row per model."""
    models = result["models"]
    missing = [f"{name}: {text}" for name, text in result["missing"].items()]
    title = f"Fixed decisions on {result['clip']}, closed loop"
    figure = new_figure((WIDTH, HEAD + ROW * len(models)), title, missing)
    rows = figure.subplots(len(models), 2, sharex=True, sharey="col", squeeze=False)
    for panels, (name, model) in zip(rows, models.items(), strict=True):
        shares = ", ".join(f"{action} {100 * d['followed']:.0f} %" for action, d in model["drives"].items())
        label(panels[0], f"{name}: plans follow {shares}", "", "speed, m/s")
        label(panels[1], "", "", "mileage, m")
        for axes, kind in zip(panels, ("speed_mps", "mileage_m"), strict=True):
            for action, drive in model["drives"].items():
                axes.plot(
                    drive["time_s"], drive[kind], "o-", markevery=[-1], color=ACTION_COLOURS[action],
                    linewidth=2.5, clip_on=False, label=action,
                )  # fmt: skip
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
    for axes in rows[-1]:
        axes.set_xlabel("time, s")
    legend(figure, rows[0, 0].get_lines())
    return figure
