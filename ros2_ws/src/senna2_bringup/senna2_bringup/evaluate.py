"""Bag of a drive -> result.json, video.mp4, report.html beside it, and a summary for the terminal.

python -m senna2_bringup.evaluate runs/latest/bag
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from senna2_bringup.result import clip_id, load_drive, summarise, timings
from senna2_core.bags import recover_bag

FINISHED = "finished"  # outcome of a drive that came to its end


@dataclass(frozen=True, kw_only=True)
class Args:
    """Judge a recorded drive; writes next to the bag."""

    bag: tyro.conf.Positional[Path]
    """Bag folder."""
    video: bool = True
    """Write video.mp4."""
    report: bool = True
    """Write report.html."""


def evaluate(
    bag: Path,
    *,
    outcome: str | None = None,
    known: dict[str, Any] | None = None,
    video: bool = True,
    report: bool = True,
) -> str:
    """Write the files; returns the summary. A cut bag is repaired first.

    Args:
        outcome: how the run ended; by default what the bag says.
        known: clip, seed, driver and mode, for a bag too short to say them.
    Raises:
        ValueError: no readable bag, or a finished drive of which it holds no step; result.json then says the outcome
            alone.
    """
    run = bag.parent
    result: dict[str, Any] = {"outcome": outcome or "unknown"} | (known or {})
    _write_json(run, result)
    recover_bag(bag)
    drive = load_drive(bag)
    if outcome == FINISHED and not drive.truth:
        _write_json(run, result | {"outcome": "not recorded"})
        raise ValueError(
            f"{bag}: the drive was finished, but none of its steps was recorded; see what the recorder says in "
            f"{run / 'log.txt'}, and drive it again"
        )
    drive.facts = (known or {}) | drive.facts
    result["outcome"] = outcome or (FINISHED if drive.ended else "aborted: the bag ends before the clip")
    result |= summarise(drive)
    result |= {"bag": str(bag), "video": None, "report": None}
    _write_json(run, result)
    if video and drive.truth:
        from senna2_bringup.video import write_video

        result["video"] = str(write_video(bag, drive, run / "video.mp4"))
    if report:
        from senna2_bringup.report import write_report

        write_report(drive, result, run / "report.html")
        result["report"] = str(run / "report.html")
    _write_json(run, result)
    return summary(result, timings(drive))


def summary(result: dict[str, Any], times: list[tuple[str, str, int, float, float]]) -> str:
    """What the user reads at the end."""

    def show(key: str, unit: str = "") -> str:
        return "-" if result[key] is None else f"{result[key]}{unit}"

    collision = "none" if not result["collided"] else "at fault" if result["at_fault"] else "not at fault"
    ending = f" ({result['end']})" if result["end"] else ""
    lines = [
        f"{clip_id(result)}, driver {result['driver']}, {result['mode']}: {result['outcome']}{ending}",
        f"  collision {collision}, minimum TTC {show('min_ttc_s', ' s')}, {show('progress_m', ' m')} in "
        f"{show('duration_s', ' s')}, real-time factor {show('real_time_factor')}, consistency {show('consistency')}",
    ]
    if (row := result["consistency_f1"]) is not None:
        lines.append(f"  consistency F1 {row['f1']:.3f} over {row['plans']} plans")
    if (row := result["forced"]) is not None:
        parts = [(name, each["followed"]) for kind in ("speed", "direction") for name, each in row[kind].items()]
        shown = ", ".join(f"{name} {100 * followed:.0f} %" for name, followed in parts)
        lines.append(f"  {row['ticks']} plans under a forced decision; so many follow it: {shown}")
    if (far := result["far_from_captures"]) is not None:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in far.items())
        lines.append(f"  frames far from every captured view: {shares}")
    if times:
        lines.append("  where the time goes   mean ms     95 %    calls")
    for node, what, count, mean_ms, p95_ms in times:
        lines.append(f"    {node:<10} {what:<13} {mean_ms:7.1f}  {p95_ms:7.1f}  {count:7d}")
    lines += [f"  {name:<7} {result[name]}" for name in ("bag", "video", "report") if result[name]]
    return "\n".join(lines)


def _write_json(run: Path, result: dict[str, Any]) -> None:
    (run / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def main(args: Args) -> int:
    """The exit code for `sys.exit`."""
    try:
        print(evaluate(args.bag, video=args.video, report=args.report))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
