"""Odometry: do poses, speeds and turning tell of one and the same drive, in metres and radians, x forward, z up?"""

from collections.abc import Iterator

import numpy as np

from senna2_core.geometry import rotate, wrap_angle
from training.doctor.bag import (
    DIVIDE,
    ENOUGH,
    MOVING_MPS,
    ODOMETRY,
    Bag,
    Finding,
    Motion,
    error,
    explain,
    unit_of,
    warning,
)

REP = "REP-103: x forward, y left, z up, yaw counter-clockwise, SI units"


def check_motion(bag: Bag) -> Iterator[Finding]:
    """Frames, numbers, axes, units of the odometry."""
    messages = bag.messages(ODOMETRY)
    if not messages:
        return
    parent, child = messages[0].header.frame_id, messages[0].child_frame_id
    if parent != "map" or child != "base_link":
        yield warning(
            "frame names", ODOMETRY, f'pose of "{child}" in "{parent}"', '"base_link" (rear axle) in "map"',
            "transform it, or rename the frames if they are the same",
        )  # fmt: skip
    motion = bag.motion
    if not all(
        np.isfinite(part).all() for part in (motion.poses, motion.quaternions, motion.velocity, motion.yaw_rate)
    ):
        yield error("numbers", ODOMETRY, "NaN or infinite values", "finite ones", "leave such messages out")
        return
    upright = list(_upright(motion))
    yield from upright
    if len(motion.poses) > ENOUGH and not upright:
        yield from _jumps(motion)
        findings = list(_axes_and_units(motion))
        yield from findings
        if not any(finding.check == "heading" for finding in findings):
            yield from _turning(motion)


def _upright(motion: Motion) -> Iterator[Finding]:
    norm = np.linalg.norm(motion.quaternions, axis=1)
    if (np.abs(norm - 1) > 0.01).any():
        yield error(
            "orientation", ODOMETRY, f"quaternions of length {norm.min():.3f} to {norm.max():.3f}", "1",
            "order x, y, z, w, normalised; set w = 1 where nothing is turned",
        )  # fmt: skip
        return
    up = 1 - 2 * (motion.quaternions[:, 0] ** 2 + motion.quaternions[:, 1] ** 2)
    tilt = float(np.rad2deg(np.arccos(np.clip(np.median(up), -1, 1))))
    if tilt > 20:
        yield error(
            "z is not up", ODOMETRY, f"base_link leans by {tilt:.0f} degrees", "z up in map and in base_link",
            f"turn the poses out of NED, FRD or optical axes; {REP}",
        )  # fmt: skip


def _jumps(motion: Motion) -> Iterator[Finding]:
    speed = motion.speed
    usual = np.nanmedian(speed) if np.isfinite(speed).any() else 0.0
    limit = max(3 * usual, usual + 20.0)
    jumps = np.flatnonzero(speed > limit)
    if len(jumps):
        far = float(speed[jumps[0]] * motion.periods_s[jumps[0]])
        yield error(
            "position jumps", ODOMETRY, f"{len(jumps)} times, first by {far:.1f} m after message {jumps[0]}",
            "continuous poses", "cut the bag there, or take odometry that is not corrected in jumps",
        )  # fmt: skip


def _axes_and_units(motion: Motion) -> Iterator[Finding]:
    heading = motion.poses[:-1, 2] + wrap_angle(np.diff(motion.poses[:, 2])) / 2
    said = (motion.velocity[:-1] + motion.velocity[1:]) / 2
    moving = (motion.speed > MOVING_MPS) | ((np.hypot(*said.T) > MOVING_MPS) & np.isfinite(motion.speed))
    if moving.sum() < ENOUGH:
        return
    driven, said, heading, speed = motion.displacement[moving], said[moving], heading[moving], motion.speed[moving]
    ratio = float(np.median(np.hypot(*said.T)) / max(np.median(speed), 1e-9))
    if unit := unit_of(ratio):
        yield error(
            "speed unit", ODOMETRY, f"twist is {ratio:.2f} times the speed of the poses: {unit}?", "m/s", DIVIDE
        )
    elif unit := unit_of(1 / max(ratio, 1e-9)):
        yield error(
            "position unit", ODOMETRY, f"poses move {1 / ratio:.2f} times as fast as twist says: {unit}?", "m", DIVIDE
        )
    elif ratio > 1e4:
        yield error(
            "position unit", ODOMETRY, "poses hardly move while the twist does: latitude and longitude?", "m in map",
            "project to metres around a point of the map",
        )  # fmt: skip
    elif ratio < 0.05:
        yield error(
            "speed missing", ODOMETRY, "twist is 0 while the poses move", "twist.linear.x in m/s",
            "fill it, from wheel speed or from the poses",
        )  # fmt: skip
    elif abs(ratio - 1) > 0.15:
        yield warning(
            "speed", ODOMETRY, f"twist is {ratio:.2f} times the speed of the poses", "equal ones",
            "calibrate one of them",
        )  # fmt: skip
    off = wrap_angle(np.arctan2(driven[:, 1], driven[:, 0]) - heading)
    fast = speed > MOVING_MPS
    if fast.sum() < ENOUGH:
        return
    aside = _heading(off[fast], np.arctan2(driven[fast, 1], driven[fast, 0]), heading[fast])
    if aside:
        yield error("heading", ODOMETRY, aside, "yaw along the motion", f"turn the poses; {REP}")
        return
    ahead = rotate(driven, -heading)
    if unit is None and 0.5 < ratio < 2 and (why := explain(said, ahead)):
        if explain(said, driven) is None:
            why = "twist is in map"
        yield error("speed axes", ODOMETRY, why, "twist.linear in base_link, x forward", f"turn the twist; {REP}")


def _heading(off: np.ndarray, course: np.ndarray, heading: np.ndarray) -> str | None:
    """How the yaw differs from the course over ground; None when it does not.

    Reversing counts as driving if it is less than half of it.
    """
    middle = float(np.angle(np.exp(1j * off).mean()))
    scatter = float(np.median(np.abs(wrap_angle(off - middle))))
    degrees = np.rad2deg(middle)
    if scatter < np.deg2rad(15):
        if abs(degrees) < 20:
            return None
        if abs(degrees) > 160:
            return "the car drives backward all the time: does x point backward?"
        hint = (
            "are x and y swapped, or does yaw count from north?"
            if abs(abs(degrees) - 90) < 20
            else "another body axis?"
        )
        return f"the motion is {degrees:.0f} degrees off the yaw: {hint}"
    if float(np.median(np.abs(off))) < np.deg2rad(15):
        return None
    turned, yawed = wrap_angle(np.diff(course)), wrap_angle(np.diff(heading))
    if np.median(np.abs(turned + yawed)) < 0.25 * np.median(np.abs(turned) + 1e-9):
        return "yaw turns right where the motion turns left: does it count clockwise, or are x and y swapped?"
    return f"yaw and motion differ, by {np.rad2deg(scatter):.0f} degrees around {degrees:.0f}: is yaw in degrees?"


def _turning(motion: Motion) -> Iterator[Finding]:
    turned = wrap_angle(np.diff(motion.poses[:, 2])) / motion.periods_s
    said = (motion.yaw_rate[:-1] + motion.yaw_rate[1:]) / 2
    turns = (np.abs(turned) > 0.03) & (motion.speed > MOVING_MPS)
    if turns.sum() < ENOUGH:
        if np.abs(motion.yaw_rate).max() > 3:
            yield warning("turn rate", ODOMETRY, f"up to {np.abs(motion.yaw_rate).max():.1f} rad/s", "below 3", DIVIDE)
        return
    ratio = float(np.median(said[turns] / turned[turns]))
    if abs(abs(ratio) / 57.3 - 1) < 0.3:
        yield error("turn rate", ODOMETRY, f"{abs(ratio):.1f} times that of the poses: degrees/s?", "rad/s", DIVIDE)
    elif abs(ratio) < 0.1:
        yield warning("turn rate", ODOMETRY, "0 while the poses turn", "twist.angular.z in rad/s", "fill it")
    elif ratio < 0:
        yield error(
            "turn rate", ODOMETRY, "positive where the poses turn right", "positive to the left",
            f"change its sign; {REP}",
        )  # fmt: skip
    elif not 0.6 < ratio < 1.6:
        yield warning("turn rate", ODOMETRY, f"{ratio:.2f} times that of the poses", "equal ones", "calibrate it")
