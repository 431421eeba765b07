"""Messages <-> our types. Works on rclpy's messages and on the rosbags library's alike (duck typing, no import of ROS).

Every `fill_X` writes into a default-constructed message and returns it; every `read_X` is its inverse up to float32.
Stamps are integer nanoseconds. Malformed messages (lengths, codes, encodings) raise ValueError.
"""

from array import array
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from senna2_core.actions import Decision, DirectionAction, PathClass
from senna2_core.geometry import quaternion_from_yaw, yaw_from_quaternion
from senna2_core.objects import EgoState, MapElements, Navigation, Objects, Signals

JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True, eq=False)
class DecisionOutput:
    """What the VLM said about one front frame."""

    stamp_ns: int  # of that frame
    decision: Decision
    probabilities: np.ndarray  # (20,) float32, by Decision.index
    hidden: np.ndarray  # (K, D) float32, final hidden states
    text: str
    forced: bool = False  # an operator forced this decision


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """The adapter's embedding of one decision."""

    stamp_ns: int  # of the front frame behind it
    decision: Decision
    embedding: np.ndarray  # (C,) float32


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """One plan against the decision that it was conditioned on."""

    stamp_ns: int  # of the plan
    decision: Decision
    speed: int  # f_K of the plan: SpeedAction code, -1 unknown
    path: PathClass  # f_K of the plan
    agree: bool
    decision_age_s: float  # plan stamp - decision stamp


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """The simulator's truth at one step; frame map."""

    stamp_ns: int
    agents: Objects
    intention: DirectionAction
    ttc_s: float  # now; inf when none within the horizon
    min_ttc_s: float  # smallest so far
    progress_m: float  # along the route since the start
    route_offset_m: float  # left positive
    collided: bool
    at_fault: bool


def set_array(msg: Any, name: str, values: np.ndarray) -> None:
    """Assign numbers to an array field with the container and element type that the message has there."""
    current = getattr(msg, name)
    if isinstance(current, array):
        fresh = array(current.typecode)
        fresh.frombytes(np.ascontiguousarray(values, dtype=current.typecode).tobytes())
        setattr(msg, name, fresh)
    else:
        setattr(msg, name, np.ascontiguousarray(values, dtype=current.dtype))


def fill_header(header: Any, stamp_ns: int, frame_id: str) -> None:
    """Stamp and frame of a std_msgs/Header."""
    header.stamp.sec, header.stamp.nanosec = divmod(int(stamp_ns), 1_000_000_000)
    header.frame_id = frame_id


def stamp_ns(header: Any) -> int:
    """The header's stamp, ns."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def fill_odometry(msg: Any, ego: EgoState) -> Any:
    """nav_msgs/Odometry: pose in map, speeds in base_link. It has no field for the acceleration."""
    fill_header(msg.header, ego.stamp_ns, "map")
    msg.child_frame_id = "base_link"
    position, orientation = msg.pose.pose.position, msg.pose.pose.orientation
    position.x, position.y = float(ego.x_m), float(ego.y_m)
    orientation.x, orientation.y, orientation.z, orientation.w = map(
        float, quaternion_from_yaw(np.asarray(ego.yaw_rad))
    )
    msg.twist.twist.linear.x = float(ego.speed_mps)
    msg.twist.twist.angular.z = float(ego.yaw_rate_radps)
    return msg


def read_odometry(msg: Any, previous: EgoState | None = None) -> EgoState:
    """The ego. Its acceleration is the change of speed since `previous` (at most 0.5 s earlier), else 0."""
    now, speed = stamp_ns(msg.header), float(msg.twist.twist.linear.x)
    dt_s = (now - previous.stamp_ns) * 1e-9 if previous is not None else 0.0
    acceleration = (speed - previous.speed_mps) / dt_s if previous is not None and 0 < dt_s <= 0.5 else 0.0
    q = msg.pose.pose.orientation
    return EgoState(
        stamp_ns=now,
        x_m=float(msg.pose.pose.position.x),
        y_m=float(msg.pose.pose.position.y),
        yaw_rad=float(yaw_from_quaternion(np.array([q.x, q.y, q.z, q.w]))),
        speed_mps=speed,
        acceleration_mps2=acceleration,
        yaw_rate_radps=float(msg.twist.twist.angular.z),
    )


def fill_navigation(msg: Any, stamp_ns: int, navigation: Navigation) -> Any:
    """senna2_msgs/NavigationCommand."""
    fill_header(msg.header, stamp_ns, "base_link")
    msg.command, msg.text = int(navigation.command), navigation.text
    msg.target_point.x, msg.target_point.y = map(float, navigation.target_point)
    msg.speed_limit_mps = float(navigation.speed_limit_mps)
    return msg


def read_navigation(msg: Any) -> Navigation:
    """Inverse of `fill_navigation`; the stamp stays in the header."""
    return Navigation(
        command=DirectionAction(int(msg.command)),
        text=str(msg.text),
        target_point=np.array([msg.target_point.x, msg.target_point.y]),
        speed_limit_mps=float(msg.speed_limit_mps),
    )


_BOX_FIELDS = ("x_m", "y_m", "yaw_rad", "length_m", "width_m")
_VELOCITY_FIELDS = ("vx_mps", "vy_mps")


def fill_objects(msg: Any, stamp_ns: int, frame_id: str, objects: Objects) -> Any:
    """senna2_msgs/Objects; frame_id is the frame that the objects are in."""
    fill_header(msg.header, stamp_ns, frame_id)
    for name in ("ids", "categories", "scores"):
        set_array(msg, name, getattr(objects, name))
    for name, column in zip(_BOX_FIELDS, objects.boxes.T, strict=True):
        set_array(msg, name, column)
    for name, column in zip(_VELOCITY_FIELDS, objects.velocities.T, strict=True):
        set_array(msg, name, column)
    return msg


def read_objects(msg: Any) -> Objects:
    """Inverse of `fill_objects`, in the frame that the header names."""
    return Objects(
        ids=np.array(msg.ids),
        categories=np.array(msg.categories),
        boxes=_columns(msg, _BOX_FIELDS),
        velocities=_columns(msg, _VELOCITY_FIELDS),
        scores=np.array(msg.scores),
    )


def fill_signals(msg: Any, stamp_ns: int, frame_id: str, signals: Signals) -> Any:
    """senna2_msgs/Signals; frame_id is the frame that the signals are in."""
    fill_header(msg.header, stamp_ns, frame_id)
    set_array(msg, "kinds", signals.kinds)
    for name, column in zip(("x_m", "y_m", "z_m"), signals.positions.T, strict=True):
        set_array(msg, name, column)
    set_array(msg, "yaw_rad", signals.yaws)
    set_array(msg, "gap_m", signals.gaps_m)
    return msg


def read_signals(msg: Any) -> Signals:
    """Inverse of `fill_signals`, in the frame that the header names."""
    columns = _columns(msg, ("x_m", "y_m", "z_m", "yaw_rad", "gap_m"))
    return Signals(np.array(msg.kinds), columns[:, :3], columns[:, 3], columns[:, 4])


def fill_map(msg: Any, stamp_ns: int, frame_id: str, elements: MapElements) -> Any:
    """senna2_msgs/MapElements; frame_id is the frame that the elements are in."""
    fill_header(msg.header, stamp_ns, frame_id)
    sizes = [len(points) for points in elements.points]
    points = np.concatenate([np.zeros((0, 2)), *elements.points])
    set_array(msg, "kinds", elements.kinds)
    set_array(msg, "starts", np.cumsum([0, *sizes])[:-1])
    set_array(msg, "x_m", points[:, 0])
    set_array(msg, "y_m", points[:, 1])
    set_array(msg, "scores", elements.scores)
    return msg


def read_map(msg: Any) -> MapElements:
    """Inverse of `fill_map`, in the frame that the header names."""
    points, starts = _columns(msg, ("x_m", "y_m")), np.array(msg.starts, dtype=np.int64)
    edges = np.append(starts, len(points))
    if len(starts) != len(msg.kinds) or (np.diff(edges) < 0).any() or edges[0] != 0:
        raise ValueError(
            f"MapElements: starts {starts.tolist()} do not cut {len(points)} points into {len(msg.kinds)} polylines"
        )
    return MapElements(np.array(msg.kinds), tuple(np.split(points, starts[1:]) if len(starts) else ()), msg.scores)


def fill_decision(
    msg: Any,
    stamp_ns: int,
    decision: Decision,
    probabilities: np.ndarray,
    hidden: np.ndarray,
    text: str,
    forced: bool = False,
    frame_id: str = "front",
) -> Any:
    """senna2_msgs/Decision; probabilities (20,), hidden (K, D); stamp and frame of the front image behind it."""
    fill_header(msg.header, stamp_ns, frame_id)
    msg.speed_action, msg.direction_action = (int(decision.speed), int(decision.direction))
    set_array(msg, "probabilities", _shaped(probabilities, (20,), "Decision.probabilities"))
    msg.text, msg.forced = text, bool(forced)
    msg.hidden_tokens, msg.hidden_size = map(int, np.shape(hidden))
    set_array(msg, "hidden", np.ravel(hidden))
    return msg


def read_decision(msg: Any) -> DecisionOutput:
    """Inverse of `fill_decision`."""
    return DecisionOutput(
        stamp_ns=stamp_ns(msg.header),
        decision=_decision(msg),
        probabilities=_shaped(msg.probabilities, (20,), "Decision.probabilities"),
        hidden=_matrix(msg.hidden, msg.hidden_tokens, msg.hidden_size, "Decision.hidden"),
        text=str(msg.text),
        forced=bool(msg.forced),
    )


def fill_condition(msg: Any, condition: Condition, frame_id: str = "front") -> Any:
    """senna2_msgs/VlmCondition."""
    fill_header(msg.header, condition.stamp_ns, frame_id)
    msg.speed_action, msg.direction_action = (int(condition.decision.speed), int(condition.decision.direction))
    set_array(msg, "embedding", condition.embedding)
    return msg


def read_condition(msg: Any) -> Condition:
    """Inverse of `fill_condition`."""
    embedding = np.array(msg.embedding, dtype=np.float32)
    return Condition(stamp_ns=stamp_ns(msg.header), decision=_decision(msg), embedding=embedding)


def fill_tokens(msg: Any, stamp_ns: int, tokens: np.ndarray) -> Any:
    """senna2_msgs/SceneTokens; tokens (N, D); stamp of the camera frames."""
    fill_header(msg.header, stamp_ns, "base_link")
    msg.count, msg.size = map(int, np.shape(tokens))
    set_array(msg, "data", np.ravel(tokens))
    return msg


def read_tokens(msg: Any) -> np.ndarray:
    """(N, D) float32; the stamp stays in the header."""
    return _matrix(msg.data, msg.count, msg.size, "SceneTokens.data")


def fill_trajectory(msg: Any, stamp_ns: int, trajectory: np.ndarray, dt_s: float = 0.1) -> Any:
    """senna2_msgs/Trajectory; trajectory (T, 3) x m, y m, yaw rad in base_link at the stamp."""
    fill_header(msg.header, stamp_ns, "base_link")
    msg.dt_s = float(dt_s)
    for name, column in zip(("x_m", "y_m", "yaw_rad"), np.asarray(trajectory).T, strict=True):
        set_array(msg, name, column)
    return msg


def read_trajectory(msg: Any) -> np.ndarray:
    """(T, 3) float32 x m, y m, yaw rad; stamp and dt_s stay in the message."""
    return _columns(msg, ("x_m", "y_m", "yaw_rad")).astype(np.float32)


def fill_consistency(msg: Any, result: Consistency) -> Any:
    """senna2_msgs/Consistency."""
    fill_header(msg.header, result.stamp_ns, "base_link")
    msg.speed_action, msg.direction_action = (int(result.decision.speed), int(result.decision.direction))
    msg.planned_speed_action, msg.planned_path = int(result.speed), int(result.path)
    msg.agree, msg.decision_age_s = bool(result.agree), float(result.decision_age_s)
    return msg


def read_consistency(msg: Any) -> Consistency:
    """Inverse of `fill_consistency`."""
    return Consistency(
        stamp_ns=stamp_ns(msg.header),
        decision=_decision(msg),
        speed=int(msg.planned_speed_action),
        path=PathClass(int(msg.planned_path)),
        agree=bool(msg.agree),
        decision_age_s=float(msg.decision_age_s),
    )


def fill_ground_truth(msg: Any, truth: GroundTruth) -> Any:
    """senna2_msgs/GroundTruth."""
    fill_header(msg.header, truth.stamp_ns, "map")
    fill_objects(msg.agents, truth.stamp_ns, "map", truth.agents)
    msg.intention = int(truth.intention)
    for name in ("ttc_s", "min_ttc_s", "progress_m", "route_offset_m"):
        setattr(msg, name, float(getattr(truth, name)))
    msg.collided, msg.at_fault = bool(truth.collided), bool(truth.at_fault)
    return msg


def read_ground_truth(msg: Any) -> GroundTruth:
    """Inverse of `fill_ground_truth`."""
    return GroundTruth(
        stamp_ns=stamp_ns(msg.header),
        agents=read_objects(msg.agents),
        intention=DirectionAction(int(msg.intention)),
        ttc_s=float(msg.ttc_s),
        min_ttc_s=float(msg.min_ttc_s),
        progress_m=float(msg.progress_m),
        route_offset_m=float(msg.route_offset_m),
        collided=bool(msg.collided),
        at_fault=bool(msg.at_fault),
    )


def fill_jpeg(msg: Any, stamp_ns: int, frame_id: str, image: np.ndarray) -> Any:
    """sensor_msgs/CompressedImage; image (H, W, 3) uint8 RGB."""
    fill_header(msg.header, stamp_ns, frame_id)
    msg.format = "jpeg"
    bgr = cv2.cvtColor(_rgb(image), cv2.COLOR_RGB2BGR)
    set_array(msg, "data", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])
    return msg


def fill_image(msg: Any, stamp_ns: int, frame_id: str, image: np.ndarray) -> Any:
    """sensor_msgs/Image, rgb8; image (H, W, 3) uint8 RGB."""
    fill_header(msg.header, stamp_ns, frame_id)
    image = _rgb(image)
    msg.height, msg.width = image.shape[:2]
    msg.encoding, msg.is_bigendian, msg.step = "rgb8", 0, 3 * image.shape[1]
    set_array(msg, "data", image.ravel())
    return msg


def read_image(msg: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/Image (rgb8, bgr8) or CompressedImage (JPEG, PNG); may share its memory.

    Raises:
        ValueError: another encoding, a length that does not fit the size, or data that cannot be decoded.
    """
    data = np.frombuffer(msg.data, dtype=np.uint8)
    if hasattr(msg, "format"):
        return _decode(data, f"CompressedImage ({msg.format})")
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if msg.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f'Image: got encoding "{msg.encoding}", wanted rgb8 or bgr8; convert before publishing')
    if min(height, width) < 1 or step < 3 * width or len(data) != height * step:
        raise ValueError(f"Image: got {len(data)} bytes for {width}x{height} with step {step}, wanted height * step")
    image = data.reshape(height, step)[:, : 3 * width].reshape(height, width, 3)
    return image if msg.encoding == "rgb8" else image[..., ::-1]


def fill_camera_info(msg: Any, stamp_ns: int, frame_id: str, width: int, height: int, intrinsics: np.ndarray) -> Any:
    """sensor_msgs/CameraInfo of an ideal pinhole camera; intrinsics (3, 3), pixels."""
    fill_header(msg.header, stamp_ns, frame_id)
    intrinsics = np.asarray(intrinsics, dtype=np.float64)
    msg.width, msg.height, msg.distortion_model = int(width), int(height), "plumb_bob"
    set_array(msg, "d", np.zeros(5))
    set_array(msg, "k", intrinsics.ravel())
    set_array(msg, "r", np.eye(3).ravel())
    set_array(msg, "p", np.hstack([intrinsics, np.zeros((3, 1))]).ravel())
    return msg


def _decode(data: np.ndarray, subject: str) -> np.ndarray:
    # The decoder fills a cut JPEG with grey and says nothing; its end marker tells.
    cut = data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-32:].tobytes()
    image = None if cut or not len(data) else cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{subject}: got {len(data)} bytes that do not decode, wanted a whole JPEG or PNG")
    return image


def _rgb(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: got shape {image.shape} {image.dtype}, wanted (H, W, 3) uint8 RGB")
    return np.ascontiguousarray(image)


def _decision(msg: Any) -> Decision:
    return Decision(int(msg.speed_action), int(msg.direction_action))  # type: ignore[arg-type]  # it converts codes


def _columns(msg: Any, names: tuple[str, ...]) -> np.ndarray:
    """The array fields as columns (N, len(names)) float64; ValueError when their lengths differ."""
    lengths = {name: len(getattr(msg, name)) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{type(msg).__name__}: got arrays of lengths {lengths}, wanted equal ones")
    return np.stack([np.array(getattr(msg, name), dtype=np.float64) for name in names], axis=1)


def _matrix(data: Any, rows: int, columns: int, subject: str) -> np.ndarray:
    if len(data) != int(rows) * int(columns):
        raise ValueError(f"{subject}: got {len(data)} values, wanted {rows} x {columns}")
    return np.array(data, dtype=np.float32).reshape(int(rows), int(columns))


def _shaped(values: Any, shape: tuple[int, ...], subject: str) -> np.ndarray:
    values = np.array(values, dtype=np.float32)
    if values.shape != shape:
        raise ValueError(f"{subject}: got shape {values.shape}, wanted {shape}")
    return values
