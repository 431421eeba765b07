"""Says whether bags can be trained on or replayed: what is wrong, what was wanted, and the way out.

Exit code 1 if a bag has an error that concerns the chosen use, else 0.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from training.command import as_command
from training.doctor.bag import BOTH, Finding, Use
from training.doctor.cameras import check_cameras, rig_of
from training.doctor.clocks import check_clocks
from training.doctor.motion import check_motion
from training.doctor.mounting import check_mounting
from training.doctor.scene import check_scene
from training.doctor.structure import opened


@dataclass(frozen=True, kw_only=True)
class Args:
    """Examine bags."""

    bags: tyro.conf.Positional[tuple[Path, ...]]
    """Bag folders, or folders of bags."""
    use: Literal["training", "replay", "both"] = "both"
    """What the bag is for; findings that do not concern it are left out."""
    rig: str = "auto"
    """Cameras that recorded it: small, nuscenes, or the path of a .json; auto: one of these if names and sizes fit."""
    images: int = 12
    """Images per camera that are decoded."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if not self.bags or self.images < 1:
            raise ValueError(f"got {len(self.bags)} bags, --images {self.images}; wanted at least one of each")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known about a bag."""

    bag: str
    topics: dict[str, dict[str, Any]]  # name -> type, messages, hz
    findings: list[Finding]

    def good_for(self, use: Use) -> bool:
        """No error concerns this use."""
        return not any(f.severity == "error" and use in f.concerns for f in self.findings)


def examine(path: str | Path, rig: str = "auto", images: int = 12) -> Report:
    """All findings about a bag. ValueError: no such rig."""
    bag, findings = opened(str(path))
    if bag is None or any(f.check == "foreign bag" for f in findings):
        return Report(bag=str(path), topics=_topics(bag), findings=findings)
    known = rig_of(bag, rig)
    findings += [*check_clocks(bag, known), *check_motion(bag), *check_scene(bag)]
    findings += [*check_cameras(bag, known, images), *check_mounting(bag, known)]
    return Report(bag=str(path), topics=_topics(bag), findings=_merged(findings))


def _topics(bag: Any) -> dict[str, dict[str, Any]]:
    described = {}
    for topic, one in bag.index.topics.items() if bag else ():
        seconds = (int(one.stamps_ns[-1]) - int(one.stamps_ns[0])) * 1e-9 if len(one) > 1 else 0.0
        hz = round((len(one) - 1) / seconds, 2) if seconds > 0 else None
        described[topic] = {"type": one.type_name, "messages": len(one), "hz": hz}
    return described


def _merged(findings: list[Finding]) -> list[Finding]:
    """Findings that differ in their topic only become one."""
    merged: dict[Finding, list[str]] = {}
    for finding in findings:
        merged.setdefault(replace(finding, subject=""), []).append(finding.subject)
    order = {"error": 0, "warning": 1}
    joined = [replace(finding, subject=", ".join(subjects)) for finding, subjects in merged.items()]
    return sorted(joined, key=lambda finding: order[finding.severity])


def bags_in(folder: Path) -> list[Path]:
    """The folder, or the bags that lie in it if it is none itself; those that were never closed, too."""
    if any(folder.glob("*.mcap")):
        return [folder]
    return sorted({file.parent for what in ("*/*.mcap", "*/metadata.yaml") for file in folder.glob(what)}) or [folder]


def main(args: Args) -> int:
    """Examine and print; returns the exit code."""
    uses: tuple[Use, ...] = BOTH if args.use == "both" else (args.use,)
    reports = []
    for path in (bag for folder in args.bags for bag in bags_in(folder)):
        report = examine(path, args.rig, args.images)
        reports.append(replace(report, findings=[f for f in report.findings if set(uses) & set(f.concerns)]))
    good = all(report.good_for(use) for report in reports for use in uses)
    if args.json:
        rows = [asdict(r) | {use: r.good_for(use) for use in uses} for r in reports]
        print(json.dumps({"ok": good, "bags": rows}, indent=1))
        return 0 if good else 1
    for report in reports:
        verdict = ", ".join(f"{use}: {'yes' if report.good_for(use) else 'NO'}" for use in uses)
        count = sum(topic["messages"] for topic in report.topics.values())
        print(f"{report.bag}: {count} messages of {len(report.topics)} topics; good for {verdict}")
        for finding in report.findings:
            print(f"  {finding.severity:8}{finding.check}: {finding.subject}")
            print(f"          {finding.found}; wanted {finding.wanted}")
            print(f"          -> {finding.way_out}")
    return 0 if good else 1


if __name__ == "__main__":
    with as_command():
        sys.exit(main(tyro.cli(Args)))
