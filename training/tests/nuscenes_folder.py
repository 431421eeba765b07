"""Makes a tiny folder with nuScenes' layout: JSON tables, small JPEGs, a map expansion; no LiDAR.

Two cameras at 12 Hz out of phase, keyframes at 2 Hz. The ego drives with 8 m/s, straight in scene-0061 and through a
left turn in scene-0103. A parked car is painted red into every picture, by formulas that share nothing with ours.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

SPEED_MPS, DURATION_S, START_US = 8.0, 7.0, 1_532_402_927_612_460
SIZE, FOCAL_PX = (160, 90), 110.0
LOCATION = "singapore-onenorth"
HEADING = np.deg2rad(30.0)
ORIGIN = np.array([600.0, 1600.0])
MOUNTINGS = {  # position in the ego frame; yaw, pitch, roll
    "CAM_FRONT": ([1.7, 0.0, 1.5], [0.4, 1.0, -0.5]),
    "CAM_FRONT_LEFT": ([1.5, 0.5, 1.5], [55.0, 0.5, 0.3]),
}
PHASES_S = {"CAM_FRONT": 0.0, "CAM_FRONT_LEFT": 0.031}
SCENES = {"scene-0061": "straight", "scene-0103": "left turn"}
# name -> category, attributes, place at the start (along, left of the straight road), velocity, size w l h
AGENTS = {
    "parked": ("vehicle.car", [], (60.0, -4.0), (0.0, 0.0), (1.9, 4.6, 1.6)),
    "oncoming": ("vehicle.truck", [], (90.0, 3.5), (-6.0, 0.0), (2.5, 8.0, 3.0)),
    "walker": ("human.pedestrian.adult", [], (40.0, 6.0), (0.0, -1.0), (0.6, 0.6, 1.8)),
    "bicycle": ("vehicle.bicycle", ["cycle.without_rider"], (30.0, -5.0), (0.0, 0.0), (0.6, 1.8, 1.2)),
    "rack": ("static_object.bicycle_rack", [], (20.0, -6.0), (0.0, 0.0), (2.0, 4.0, 1.0)),
}
TABLES = """category attribute visibility instance sensor calibrated_sensor ego_pose log scene sample sample_data
    sample_annotation map"""
TURN_AT_S, TURN_S = 2.5, 2.5  # the left turn by 90 deg


def ego_pose(kind: str, time_s: float) -> tuple[np.ndarray, float]:
    """Place (2,) and yaw of the rear axle in map."""
    if kind == "straight" or time_s <= TURN_AT_S:
        along = np.array([SPEED_MPS * time_s, 0.0])
        return ORIGIN + _turned(along, HEADING), HEADING
    angle = min((time_s - TURN_AT_S) / TURN_S, 1.0) * np.pi / 2
    radius = SPEED_MPS * TURN_S / (np.pi / 2)
    place = np.array([SPEED_MPS * TURN_AT_S + radius * np.sin(angle), radius * (1 - np.cos(angle))])
    place[1] += SPEED_MPS * max(time_s - TURN_AT_S - TURN_S, 0.0)
    return ORIGIN + _turned(place, HEADING), HEADING + angle


def agent_place(name: str, time_s: float) -> np.ndarray:
    """Centre (2,) of an agent in map."""
    _, _, start, velocity, _ = AGENTS[name]
    return ORIGIN + _turned(np.array(start) + time_s * np.array(velocity), HEADING)


def agent_velocity(name: str) -> np.ndarray:
    """(2,) in map."""
    return _turned(np.array(AGENTS[name][3]), HEADING)


def _turned(point: np.ndarray, angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ point


def _quaternion(rotation: Rotation) -> list[float]:
    x, y, z, w = rotation.as_quat()
    return [float(w), float(x), float(y), float(z)]


def mounting(channel: str) -> tuple[np.ndarray, Rotation]:
    """Position and rotation ego <- optical."""
    position, angles = MOUNTINGS[channel]
    optical = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return np.array(position), Rotation.from_euler("ZYX", angles, degrees=True) * optical


def picture(kind: str, channel: str, time_s: float, seed: int) -> bytes:
    """JPEG of grey noise with the parked car's box in red."""
    rng = np.random.default_rng(seed)
    image = rng.integers(80, 120, (SIZE[1], SIZE[0], 1), dtype=np.uint8).repeat(3, 2)
    width, length, height = AGENTS["parked"][4]
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (0, 2)]) * [
        length / 2,
        width / 2,
        height / 2,
    ]
    in_map = Rotation.from_euler("z", HEADING).apply(corners) + [*agent_place("parked", time_s), 0.0]
    place, yaw = ego_pose(kind, time_s)
    in_ego = Rotation.from_euler("z", yaw).inv().apply(in_map - [*place, 0.0])
    position, rotation = mounting(channel)
    in_camera = rotation.inv().apply(in_ego - position)
    if (in_camera[:, 2] > 0.5).all():
        pixels = FOCAL_PX * in_camera[:, :2] / in_camera[:, 2:] + [SIZE[0] / 2 - 0.5, SIZE[1] / 2 - 0.5]
        cv2.fillConvexPoly(image, cv2.convexHull(np.round(pixels).astype(np.int32)), (0, 0, 255))
    return cv2.imencode(".jpg", image)[1].tobytes()


def make_folder(root: Path, version: str = "v1.0-mini", missing: dict[str, tuple[float, float]] | None = None) -> Path:
    """Write everything. missing: channel -> (from, to) s without frames."""
    tables: dict[str, list[dict]] = {name: [] for name in TABLES.split()}
    tables["category"] = [{"token": c, "name": c, "description": "", "index": 0} for c, *_ in AGENTS.values()]
    tables["attribute"] = [{"token": "a", "name": "cycle.without_rider", "description": ""}]
    tables["map"] = [{"token": "m", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/mask.png"}]
    tables["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": LOCATION}]
    (root / "maps" / "expansion").mkdir(parents=True)
    (root / "maps" / "mask.png").write_bytes(cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes())
    for channel in MOUNTINGS:
        position, rotation = mounting(channel)
        tables["sensor"].append({"token": channel, "channel": channel, "modality": "camera"})
        matrix = [[FOCAL_PX, 0, SIZE[0] / 2 - 0.5], [0, FOCAL_PX, SIZE[1] / 2 - 0.5], [0, 0, 1]]
        tables["calibrated_sensor"].append({
            "token": f"cs-{channel}", "sensor_token": channel, "translation": position.tolist(),
            "rotation": _quaternion(rotation), "camera_intrinsic": matrix,
        })  # fmt: skip
    for name, kind in SCENES.items():
        _make_scene(root, tables, name, kind, missing or {})
    (root / version).mkdir()
    for name, rows in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    return root


def _make_scene(root: Path, tables: dict[str, list[dict]], name: str, kind: str, missing: dict) -> None:
    samples = [f"{name}-sample-{i}" for i in range(int(DURATION_S * 2) + 1)]
    for i, token in enumerate(samples):
        near = {"prev": samples[i - 1] if i else "", "next": samples[i + 1] if i + 1 < len(samples) else ""}
        tables["sample"].append({"token": token, "timestamp": START_US + i * 500_000, "scene_token": name, **near})
    tables["scene"].append({
        "token": name, "log_token": "log", "nbr_samples": len(samples), "first_sample_token": samples[0],
        "last_sample_token": samples[-1], "name": name, "description": kind,
    })  # fmt: skip
    for channel, phase in PHASES_S.items():
        start, end = missing.get(channel, (0.0, 0.0))
        times = [time for time in np.arange(phase, DURATION_S + 1e-9, 1 / 12) if not start <= time < end]
        rows = []
        for i, time_s in enumerate(times):
            token, stamp = f"{name}-{channel}-{i}", START_US + round(time_s * 1e6)
            key = abs(time_s * 2 - round(time_s * 2)) < 0.1 and round(time_s * 12) % 6 == 0
            folder = root / ("samples" if key else "sweeps") / channel
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{token}.jpg").write_bytes(picture(kind, channel, time_s, seed=i))
            place, yaw = ego_pose(kind, time_s)
            rotation = _quaternion(Rotation.from_euler("z", yaw))
            pose = {"token": f"pose-{token}", "timestamp": stamp, "rotation": rotation, "translation": [*place, 0.0]}
            tables["ego_pose"].append(pose)
            rows.append({
                "token": token, "sample_token": samples[min(int(time_s * 2), len(samples) - 1)],
                "ego_pose_token": pose["token"], "calibrated_sensor_token": f"cs-{channel}", "timestamp": stamp,
                "fileformat": "jpg", "is_key_frame": bool(key), "height": SIZE[1], "width": SIZE[0],
                "filename": str((folder / f"{token}.jpg").relative_to(root)),
                "prev": f"{name}-{channel}-{i - 1}" * (i > 0),
                "next": f"{name}-{channel}-{i + 1}" * (i + 1 < len(times)),
            })  # fmt: skip
        tables["sample_data"] += rows
    for agent, (category, attributes, _, _, size) in AGENTS.items():
        tokens = [f"{name}-{agent}-{i}" for i in range(len(samples))]
        tables["instance"].append({
            "token": f"{name}-{agent}", "category_token": category, "nbr_annotations": len(tokens),
            "first_annotation_token": tokens[0], "last_annotation_token": tokens[-1],
        })  # fmt: skip
        for i, token in enumerate(tokens):
            tables["sample_annotation"].append({
                "token": token, "sample_token": samples[i], "instance_token": f"{name}-{agent}", "visibility_token": "",
                "attribute_tokens": ["a"] * len(attributes), "size": list(size),
                "translation": [*agent_place(agent, 0.5 * i), size[2] / 2],
                "rotation": _quaternion(Rotation.from_euler("z", HEADING)), "num_lidar_pts": 9, "num_radar_pts": 0,
                "prev": tokens[i - 1] if i else "", "next": tokens[i + 1] if i + 1 < len(tokens) else "",
            })  # fmt: skip


def write_map(root: Path) -> None:
    """A road of 8 m along the straight drive, its lane 0.5 m left of it; a divider, a crossing, a stop area."""
    nodes: list[dict[str, Any]] = []
    polygons: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []

    def place(along: float, left: float) -> np.ndarray:
        return ORIGIN + _turned(np.array([along, left]), HEADING)

    def node(along: float, left: float) -> str:
        x, y = place(along, left)
        nodes.append({"token": f"n{len(nodes)}", "x": float(x), "y": float(y)})
        return str(nodes[-1]["token"])

    def polygon(*corners: tuple[float, float]) -> str:
        tokens = [node(*corner) for corner in corners]
        polygons.append({"token": f"p{len(polygons)}", "exterior_node_tokens": tokens, "holes": []})
        return str(polygons[-1]["token"])

    def line(*points: tuple[float, float]) -> str:
        lines.append({"token": f"l{len(lines)}", "node_tokens": [node(*point) for point in points]})
        return str(lines[-1]["token"])

    road = polygon((-20, -4), (80, -4), (80, 4), (-20, 4))
    lane = polygon((-20, -2), (80, -2), (80, 2), (-20, 2))
    start, end = place(-20, 0.5), place(80, 0.5)
    arc = {
        "start_pose": [*start, HEADING], "end_pose": [*end, HEADING], "shape": "LSR", "radius": 1e3,
        "segment_length": [0.0, 100.0, 0.0],
    }  # fmt: skip
    content = {
        "version": "1.3", "canvas_edge": [1585.6, 2025.0], "connectivity": {}, "arcline_path_3": {"lane": [arc]},
        "lane": [{"token": "lane", "polygon_token": lane, "left_lane_divider_segments": [],
                  "right_lane_divider_segments": []}],
        "lane_connector": [], "road_segment": [], "road_block": [], "walkway": [], "carpark_area": [],
        "traffic_light": [], "road_divider": [],
        "drivable_area": [{"token": "area", "polygon_tokens": [road]}],
        "lane_divider": [{"token": "divider", "line_token": line((-20, 2), (80, 2))}],
        "ped_crossing": [{"token": "zebra", "polygon_token": polygon((40, -4), (44, -4), (44, 4), (40, 4))}],
        "stop_line": [
            {"token": "stop", "stop_line_type": "STOP_SIGN",
             "polygon_token": polygon((36, -2), (37, -2), (37, 2), (36, 2))},
            {"token": "turn", "stop_line_type": "TURN_STOP", "ped_crossing_tokens": [],
             "polygon_token": polygon((30, -2), (31, -2), (31, 2), (30, 2))},
        ],
    }  # fmt: skip
    content |= {"node": nodes, "polygon": polygons, "line": lines}
    (root / "maps" / "expansion" / f"{LOCATION}.json").write_text(json.dumps(content))
