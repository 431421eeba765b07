"""A nuScenes scene at steps of 0.1 s: which are complete, where the ego and the agents are, what the ego then drives.

Frames: map, except for plans, which are in base_link. T steps at stamps that are whole multiples of 0.1 s.
"""

from dataclasses import dataclass

import numpy as np

from senna2_core.geometry import to_frame, wrap_angle
from senna2_core.objects import EgoState, Objects
from training.data import DT_S, STEPS
from training.nuscenes_scene import Scene, SourceCamera, Track

PERIOD_NS = round(DT_S * 1e9)
EGO_GAP_NS = 2 * PERIOD_NS  # poses further apart are not interpolated
BRIDGE_S = 0.75  # annotations (2 Hz) further apart are not interpolated
LINGER_S = 0.25  # an agent is there this long before its first and after its last annotation


@dataclass(frozen=True, eq=False)
class Steps:
    """The usable steps of a scene, in runs without gaps."""

    stamps_ns: np.ndarray  # (T,) all multiples of 0.1 s at which the ego's pose is known or lies in a gap
    poses: np.ndarray  # (T, 3) of the ego
    frames: dict[str, np.ndarray]  # per camera, (T,) index of its nearest frame, -1 where none is near
    runs: tuple[slice, ...]  # of usable steps
    dropped: dict[str, int]  # why -> steps
    frame_offset_s: np.ndarray  # (F,) of all frames used: its own stamp minus the step's


def steps_of(scene: Scene, tolerance_s: float, shortest: int) -> Steps:
    """Split a scene into steps.

    Args:
        tolerance_s: a frame belongs to a step if it was taken at most so far from it.
        shortest: runs with fewer steps are dropped.
    """
    known = scene.ego_stamps_ns
    stamps = np.arange(-(-known[0] // PERIOD_NS), known[-1] // PERIOD_NS + 1) * PERIOD_NS
    after = np.clip(np.searchsorted(known, stamps), 1, len(known) - 1)
    ego_known = known[after] - known[after - 1] <= EGO_GAP_NS
    frames = {source.camera.name: nearest_frames(source, stamps, tolerance_s) for source in scene.cameras}
    reasons = {name: index < 0 for name, index in frames.items()}
    # A plan must lie in the recording, whole and without a gap.
    gaps_before = np.concatenate([[0], np.cumsum(~ego_known)])
    ends = np.minimum(np.arange(len(stamps)) + STEPS + 1, len(stamps))
    whole = (np.arange(len(stamps)) + STEPS < len(stamps)) & (gaps_before[ends] == gaps_before[: len(stamps)])
    usable = whole & ~np.any([*reasons.values(), ~ego_known], axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], usable.astype(int), [0]]))).reshape(-1, 2)
    runs = tuple(slice(int(start), int(end)) for start, end in edges if end - start >= shortest)
    offsets = [
        source.stamps_ns[frames[source.camera.name][run]] - stamps[run] for run in runs for source in scene.cameras
    ]
    dropped = {f"no {name} frame": int((missing & whole).sum()) for name, missing in reasons.items()}
    dropped |= {
        "no pose": int((~ego_known).sum()),
        "future not recorded": int((~whole & ego_known).sum()),
        "run too short": int(sum(end - start for start, end in edges if end - start < shortest)),
    }
    return Steps(
        stamps_ns=stamps,
        poses=ego_poses(scene, stamps),
        frames=frames,
        runs=runs,
        dropped={why: count for why, count in dropped.items() if count},
        frame_offset_s=np.concatenate([np.zeros(0), *offsets]) * 1e-9,
    )


def nearest_frames(source: SourceCamera, stamps_ns: np.ndarray, tolerance_s: float) -> np.ndarray:
    """(T,) index of the frame nearest to each stamp, -1 where none is within the tolerance."""
    after = np.clip(np.searchsorted(source.stamps_ns, stamps_ns), 1, max(len(source.stamps_ns) - 1, 1))
    before, after = after - 1, np.minimum(after, len(source.stamps_ns) - 1)
    ahead, behind = (np.abs(source.stamps_ns[i] - stamps_ns) for i in (after, before))
    nearest = np.where(ahead < behind, after, before)
    return np.where(np.minimum(ahead, behind) <= round(tolerance_s * 1e9), nearest, -1)


def ego_poses(scene: Scene, stamps_ns: np.ndarray) -> np.ndarray:
    """(T, 3) interpolated poses of the ego; yaw is not wrapped."""
    columns = (scene.ego_poses[:, 0], scene.ego_poses[:, 1], np.unwrap(scene.ego_poses[:, 2]))
    seconds, known = (1e-9 * (t - scene.ego_stamps_ns[0]) for t in (stamps_ns, scene.ego_stamps_ns))
    return np.stack([np.interp(seconds, known, column) for column in columns], axis=1)


def ego_states(steps: Steps) -> list[EgoState]:
    """T states; speeds are central differences of the poses over 0.2 s."""
    velocity = np.gradient(steps.poses[:, :2], DT_S, axis=0)
    yaw = steps.poses[:, 2]
    speed = velocity[:, 0] * np.cos(yaw) + velocity[:, 1] * np.sin(yaw)
    acceleration, yaw_rate = np.gradient(speed, DT_S), np.gradient(yaw, DT_S)
    return [
        EgoState(
            stamp_ns=int(stamp),
            x_m=float(pose[0]),
            y_m=float(pose[1]),
            yaw_rad=float(wrap_angle(pose[2])),
            speed_mps=float(v),
            acceleration_mps2=float(a),
            yaw_rate_radps=float(w),
        )
        for stamp, pose, v, a, w in zip(steps.stamps_ns, steps.poses, speed, acceleration, yaw_rate, strict=True)
    ]


def slip_offset_m(steps: Steps) -> float | None:
    """How far ahead of the rear axle the ego frame's origin lies, by least squares over all turning; None: no turning.

    The rear axle does not slip sideways (kinematic bicycle), a point d ahead of it does so with yaw rate times d.
    """
    velocity, yaw = np.gradient(steps.poses[:, :2], DT_S, axis=0), steps.poses[:, 2]
    sideways = -velocity[:, 0] * np.sin(yaw) + velocity[:, 1] * np.cos(yaw)
    yaw_rate = np.gradient(yaw, DT_S)
    if (yaw_rate**2).sum() * DT_S < 0.1:  # rad^2/s; a turn by 90 deg in 5 s has 0.5
        return None
    return float((sideways * yaw_rate).sum() / (yaw_rate**2).sum())


def plan_at(steps: Steps, step: int) -> np.ndarray:
    """(40, 3) where the ego went after a usable step, in its base_link then; yaw is not wrapped."""
    future = to_frame(steps.poses[step + 1 : step + 1 + STEPS], steps.poses[step])
    future[:, 2] = np.unwrap(future[:, 2], axis=0)
    return future


@dataclass(frozen=True, eq=False)
class Motion:
    """One agent at T steps."""

    there: np.ndarray  # (T,) bool
    boxes: np.ndarray  # (T, 5)
    velocities: np.ndarray  # (T, 2) m/s
    categories: np.ndarray  # (T,)


def motion_of(track: Track, stamps_ns: np.ndarray) -> Motion:
    """Interpolate an agent's annotations. Beside a lone or outer annotation it goes on with the velocity there."""
    origin = track.stamps_ns[0]
    known, at = 1e-9 * (track.stamps_ns - origin), 1e-9 * (stamps_ns - origin)
    before = np.clip(np.searchsorted(known, at, side="right") - 1, 0, len(known) - 1)
    after = np.minimum(before + 1, len(known) - 1)
    bridged = (known[before] <= at) & (at <= known[after]) & (known[after] - known[before] <= BRIDGE_S)
    nearest = np.where(np.abs(known[after] - at) < np.abs(known[before] - at), after, before)
    lingers = np.abs(known[nearest] - at) <= LINGER_S
    speeds = keyframe_velocities(track)
    yaws = np.unwrap(track.boxes[:, 2])
    beyond = track.boxes[nearest, :2] + speeds[nearest] * (at - known[nearest])[:, None]
    between = np.stack([np.interp(at, known, track.boxes[:, axis]) for axis in range(2)], axis=1)
    slopes = np.stack([np.interp(at, known, speeds[:, axis]) for axis in range(2)], axis=1)
    boxes = track.boxes[nearest].copy()
    boxes[:, :2] = np.where(bridged[:, None], between, beyond)
    boxes[:, 2] = wrap_angle(np.where(bridged, np.interp(at, known, yaws), yaws[nearest]))
    velocities = np.where(bridged[:, None], slopes, speeds[nearest])
    return Motion(bridged | lingers, boxes, velocities, track.categories[nearest])


def keyframe_velocities(track: Track) -> np.ndarray:
    """(K, 2) m/s: central differences, one-sided beside a gap, 0 for a lone annotation."""
    seconds, index = 1e-9 * (track.stamps_ns - track.stamps_ns[0]), np.arange(len(track.stamps_ns))
    near = np.diff(seconds) <= BRIDGE_S
    first = index - np.concatenate([[False], near])
    last = index + np.concatenate([near, [False]])
    span = seconds[last] - seconds[first]
    moved = track.boxes[last, :2] - track.boxes[first, :2]
    return np.where(span[:, None] > 0, moved / np.where(span > 0, span, 1.0)[:, None], 0.0)


def agents_at(tracks: tuple[Track, ...], motions: list[Motion], step: int) -> Objects:
    """All agents of a step, in map."""
    there = [(track.id, motion) for track, motion in zip(tracks, motions, strict=True) if motion.there[step]]
    if not there:
        return Objects.empty()
    return Objects(
        np.array([number for number, _ in there]),
        np.array([motion.categories[step] for _, motion in there]),
        np.stack([motion.boxes[step] for _, motion in there]),
        np.stack([motion.velocities[step] for _, motion in there]),
        np.ones(len(there)),
    )
