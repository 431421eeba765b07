"""Every defect is found and named, one at a time; a good bag has no finding."""

import json
import re

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from senna2_core.actions import DirectionAction
from senna2_core.bags import BagWriter, blank, read_bag, typestore
from senna2_core.geometry import from_frame, quaternion_from_yaw, to_frame
from senna2_core.messages import GroundTruth, fill_jpeg, set_array
from senna2_core.objects import EgoState, MapElements, MapKind, Navigation, Objects
from senna2_sim.rig import load_rig
from training.doctor.__main__ import Args, bags_in, examine, main
from training.doctor.bag import Motion
from training.record import Recorder

STEPS, SPEED, CURVATURE = 70, 8.0, 0.02
ODOMETRY, NAVIGATION, TRUTH, PLAN = "/ego/odometry", "/ego/navigation", "/sim/ground_truth", "/planner/trajectory"
FRONT = "/camera/front/compressed"


def circle(time_s):
    """(T, 3) of a car that begins at (80, -20) with yaw 0.6."""
    along = SPEED * np.asarray(time_s)
    yaw = along * CURVATURE
    local = np.stack([np.sin(yaw) / CURVATURE, (1 - np.cos(yaw)) / CURVATURE, yaw], axis=-1)
    return from_frame(local, np.array([80.0, -20.0, 0.6]))


def record(path):
    """A car on a circle that follows its plan, an oncoming car, a parked one."""
    rig, rng = load_rig("small"), np.random.default_rng(0)
    pictures = [
        {c.name: cv2.resize(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), (c.width, c.height)) for c in rig.cameras}
        for _ in range(5)
    ]
    route = circle(np.arange(-20, 200) * 0.1)[:, :2]
    with BagWriter(path) as writer:
        recorder = Recorder(writer, rig)
        kinds = np.array([MapKind.ROUTE, MapKind.KERB])
        recorder.map(10**9, MapElements(kinds, (route, route + [0.0, 6.0]), np.ones(2)))
        for step in range(STEPS):
            time_s, stamp = step * 0.1, 10**9 + step * 10**8
            pose = circle(time_s)
            ego = EgoState(
                stamp_ns=stamp, x_m=pose[0], y_m=pose[1], yaw_rad=pose[2], speed_mps=SPEED, acceleration_mps2=0.0,
                yaw_rate_radps=SPEED * CURVATURE,
            )  # fmt: skip
            way = np.array([np.cos(2.5), np.sin(2.5)])
            oncoming = [*([120.0, 10.0] + 6.0 * time_s * way), 2.5, 4.5, 1.8]
            agents = Objects(
                np.array([3, 4]), np.zeros(2), np.array([oncoming, [100.0, 20.0, 1.0, 4.2, 1.7]]),
                np.stack([6.0 * way, np.zeros(2)]), np.ones(2),
            )  # fmt: skip
            truth = GroundTruth(
                stamp_ns=stamp, agents=agents, intention=DirectionAction.STRAIGHT, ttc_s=np.inf, min_ttc_s=np.inf,
                progress_m=0.0, route_offset_m=0.0, collided=False, at_fault=False,
            )  # fmt: skip
            navigation = Navigation(
                command=DirectionAction.STRAIGHT, text="follow the road",
                target_point=to_frame(circle(time_s + 5), pose)[:2], speed_limit_mps=13.9,
            )  # fmt: skip
            plan = to_frame(circle(time_s + 0.1 * np.arange(1, 41)), pose)
            recorder.step(ego, navigation, truth, pictures[step % 5], plan)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return record(tmp_path_factory.mktemp("good") / "bag")


@pytest.fixture(scope="module")
def raw(good):
    return [(t, stamp, m.__msgtype__, typestore().serialize_cdr(m, m.__msgtype__)) for t, stamp, m in read_bag(good)]


def spoiled(raw, path, pattern, change):
    """The bag, but for messages of topics that fit the pattern: change(message, step) or None leaves one out."""
    with BagWriter(path) as writer:
        for topic, stamp, kind, cdr in raw:
            if re.fullmatch(pattern, topic):
                message = change(typestore().deserialize_cdr(cdr, kind), round((stamp - 10**9) / 1e8))
                if message is None:
                    continue
                cdr = typestore().serialize_cdr(message, kind)
            writer.write_raw(topic, kind, cdr, stamp)
    return path


def headers(message):
    return [message.header] + ([message.agents.header] if hasattr(message, "agents") else [])


def shift(seconds, since=0):
    def change(message, step):
        if since <= step:
            for header in headers(message):
                header.stamp.sec += seconds
        return message

    return change


def repeat(message, step):
    if step == 41:
        message.header.stamp.nanosec -= 100_000_000
    return message


def late(message, step):
    if step == 45:
        message.header.stamp.nanosec -= 250_000_000
    return message


def no_stamp(message, step):
    message.header.stamp.sec = message.header.stamp.nanosec = 0
    return message


def every_second(message, step):
    return message if step % 2 == 0 else None


def some_lost(message, step):
    return message if step % 9 else None


def every_third(message, step):
    return message if step % 3 == 0 else None


def nothing(message, step):
    return None


def with_pose(message, pose):
    message.pose.pose.position.x, message.pose.pose.position.y = map(float, pose[:2])
    q = message.pose.pose.orientation
    q.x, q.y, q.z, q.w = map(float, quaternion_from_yaw(np.asarray(pose[2])))
    return message


def odometry(**parts):
    """Changes of pose (x, y, yaw), twist and yaw rate."""

    def change(message, step):
        pose = circle(step * 0.1)
        if "pose" in parts:
            with_pose(message, parts["pose"](*pose))
        linear, angular = message.twist.twist.linear, message.twist.twist.angular
        if "twist" in parts:
            linear.x, linear.y = map(float, parts["twist"](linear.x, pose[2]))
        if "rate" in parts:
            angular.z = float(parts["rate"](angular.z))
        return message

    return change


def upside_down(message, step):
    q = message.pose.pose.orientation
    q.x, q.y, q.z, q.w = q.w, q.z, -q.y, -q.x  # times a half turn about x
    return message


def jump(message, step):
    message.pose.pose.position.x += 30.0 * (step >= 30)
    return message


def agents(change_columns):
    """Changes of the columns x, y, yaw, vx, vy of the agents, given the ego's pose."""

    def change(message, step):
        boxes = message.agents
        names = ("x_m", "y_m", "yaw_rad", "vx_mps", "vy_mps")
        columns = change_columns(*[np.array(getattr(boxes, name), np.float64) for name in names], circle(step * 0.1))
        for name, values in zip(names, columns, strict=True):
            set_array(boxes, name, values)
        return message

    return change


def in_base_link(x, y, yaw, vx, vy, ego):
    boxes = to_frame(np.stack([x, y, yaw], 1), ego)
    velocity = to_frame(np.stack([vx, vy, 0 * vx], 1), np.array([0, 0, ego[2]]))
    return *boxes.T, velocity[:, 0], velocity[:, 1]


def among_agents(x, y, yaw, vx, vy, ego):
    centre = from_frame(np.array([1.4, 0, 0]), ego)
    speed = [SPEED * np.cos(ego[2]), SPEED * np.sin(ego[2])]
    return tuple(np.array([c, e]) for c, e in zip((x[0], y[0], yaw[0], vx[0], vy[0]), (*centre, *speed), strict=True))


def flat(**values):
    """Sets or scales fields of a message, dotted names as in target_point__x."""

    def change(message, step):
        for name, value in values.items():
            *path, last = name.split("__")
            owner = message
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, last, value(getattr(owner, last)) if callable(value) else value)
        return message

    return change


def swapped_target(message, step):
    point = message.target_point
    point.x, point.y = point.y, point.x
    return message


def target_in_map(message, step):
    point = message.target_point
    point.x, point.y = map(float, from_frame(np.array([point.x, point.y, 0]), circle(step * 0.1))[:2])
    return message


def plan(change_points):
    def change(message, step):
        points = np.stack([np.array(message.x_m), np.array(message.y_m), np.array(message.yaw_rad)], 1)
        for name, column in zip(("x_m", "y_m", "yaw_rad"), change_points(points, circle(step * 0.1)).T, strict=True):
            set_array(message, name, column)
        return message

    return change


def far_map(message, step):
    set_array(message, "x_m", np.array(message.x_m) + 500)
    return message


def swapped_map(message, step):
    message.x_m, message.y_m = message.y_m, message.x_m
    return message


def without_route(message, step):
    set_array(message, "kinds", np.full(len(message.kinds), int(MapKind.KERB)))
    return message


def picture(image):
    def change(message, step):
        return fill_jpeg(message, 10**9 + step * 10**8, "front", image)

    return change


def half_an_image(message, step):
    set_array(message, "data", message.data[: len(message.data) // 2])
    return message


def other_resolution(message, step):
    set_array(message, "k", np.array(message.k) * [4, 1, 4, 1, 4, 4, 1, 1, 1])
    return message


def longer_lens(message, step):
    set_array(message, "k", np.array(message.k) * [1.2, 1, 1, 1, 1.2, 1, 1, 1, 1])
    return message


def uncalibrated(message, step):
    set_array(message, "k", np.zeros(9))
    return message


def distorted(message, step):
    set_array(message, "d", np.array([-0.3, 0.1, 0, 0, 0]))
    return message


GREY, BLACK = np.full((180, 320, 3), 128, np.uint8), np.zeros((180, 320, 3), np.uint8)
FROZEN = cv2.resize(np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8), (320, 180))
ALL = "(?!/sim/map).*"
DEFECTS = {  # topics, change, finding, what it must say
    "clock jump": (ALL, shift(5, since=30), "clock jump", r"\+5.10 s after message 29"),
    "clock back": (ALL, shift(-3, since=40), "clock jump", r"-2.90 s after message 39"),
    "repeated stamp": (ODOMETRY, repeat, "stamps out of order", "1 stamps are repeated, the first at message 41"),
    "out of order": (ODOMETRY, late, "stamps out of order", "1 stamps go back"),
    "no stamps": (FRONT, no_stamp, "stamps", "70 messages without"),
    "wrong rate": (ALL, every_second, "rate", "5 Hz"),
    "slow camera": (FRONT, every_second, "rate", "5 Hz"),
    "lost messages": (ODOMETRY, some_lost, "gaps", "7 of"),
    "other clock": (ALL, shift(1000), "record time", r"recorded -1e\+03 s"),
    "swapped positions": (ODOMETRY, odometry(pose=lambda x, y, yaw: (y, x, yaw)), "heading", "swapped"),
    "yaw from y": (ODOMETRY, odometry(pose=lambda x, y, yaw: (x, y, yaw - np.pi / 2)), "heading", "90 degrees off"),
    "compass": (ODOMETRY, odometry(pose=lambda x, y, yaw: (x, y, -yaw)), "heading", "clockwise"),
    "x backward": (ODOMETRY, odometry(pose=lambda x, y, yaw: (x, y, yaw + np.pi)), "heading", "backward"),
    "yaw in degrees": (ODOMETRY, odometry(pose=lambda x, y, yaw: (x, y, np.rad2deg(yaw))), "heading", "degrees"),
    "upside down": (ODOMETRY, upside_down, "z is not up", "180 degrees"),
    "no quaternion": (ODOMETRY, flat(pose__pose__orientation__w=0.0), "orientation", "length"),
    "NaN": (ODOMETRY, flat(pose__pose__position__x=np.nan), "numbers", "NaN"),
    "jump": (ODOMETRY, jump, "position jumps", "1 times"),
    "odom frame": (ODOMETRY, flat(header__frame_id="odom"), "frame names", "odom"),
    "km/h": (ODOMETRY, odometry(twist=lambda v, yaw: (3.6 * v, 0)), "speed unit", "km/h"),
    "poses in cm": (ODOMETRY, odometry(pose=lambda x, y, yaw: (100 * x, 100 * y, yaw)), "position unit", "cm"),
    "twist in map": (ODOMETRY, odometry(twist=lambda v, yaw: (v * np.cos(yaw), v * np.sin(yaw))), "speed axes", "map"),
    "twist on y": (ODOMETRY, odometry(twist=lambda v, yaw: (0, v)), "speed axes", "swapped|y forward"),
    "twist backward": (ODOMETRY, odometry(twist=lambda v, yaw: (-v, 0)), "speed axes", "backward"),
    "no speed": (ODOMETRY, odometry(twist=lambda v, yaw: (0, 0)), "speed missing", "0"),
    "degrees/s": (ODOMETRY, odometry(rate=np.rad2deg), "turn rate", "degrees/s"),
    "right turns positive": (ODOMETRY, odometry(rate=np.negative), "turn rate", "right"),
    "agents' yaw in degrees": (
        TRUTH, agents(lambda x, y, yaw, vx, vy, ego: (x, y, np.rad2deg(yaw), vx, vy)), "angle unit", "degrees",
    ),
    "agents in km/h": (
        TRUTH, agents(lambda x, y, yaw, vx, vy, ego: (x, y, yaw, 3.6 * vx, 3.6 * vy)), "agents", "km/h",
    ),
    "agents in base_link": (TRUTH, agents(in_base_link), "agents", "base_link instead of map"),
    "agents' velocities swapped": (
        TRUTH, agents(lambda x, y, yaw, vx, vy, ego: (x, y, yaw, vy, vx)), "agents", "swapped",
    ),
    "boxes across": (
        TRUTH, agents(lambda x, y, yaw, vx, vy, ego: (x, y, yaw + 1.57, vx, vy)), "agents", "turned by 90 degrees",
    ),
    "ego among agents": (TRUTH, agents(among_agents), "agents", "where the car is"),
    "intention": (TRUTH, flat(intention=9), "intention", "9"),
    "agents' frame": (TRUTH, flat(agents__header__frame_id="base_link"), "frame names", "base_link"),
    "limit in km/h": (NAVIGATION, flat(speed_limit_mps=lambda v: 3.6 * v), "speed unit", "km/h"),
    "command": (NAVIGATION, flat(command=17), "command", "17"),
    "target swapped": (NAVIGATION, swapped_target, "navigation", "swapped|y forward"),
    "target in map": (NAVIGATION, target_in_map, "navigation", "in map"),
    "plan in map": (PLAN, plan(lambda points, ego: from_frame(points, ego)), "plan", "in map"),
    "plan mirrored": (PLAN, plan(lambda points, ego: points[:, [1, 0, 2]]), "plan", "swapped"),
    "plan in degrees": (PLAN, plan(lambda points, ego: points * [1, 1, 57.3]), "angle unit", "degrees"),
    "plan of 0.5 s": (PLAN, flat(dt_s=0.5), "plan", "0.5"),
    "map elsewhere": ("/sim/map", far_map, "map", "off the route: another origin"),
    "map swapped": ("/sim/map", swapped_map, "map", "swapped"),
    "no route": ("/sim/map", without_route, "map", "none of kind ROUTE"),
    "black": (FRONT, picture(BLACK), "images", "black"),
    "grey": (FRONT, picture(GREY), "images", "one colour"),
    "frozen": (FRONT, picture(FROZEN), "images", "equal the one before"),
    "cut images": (FRONT, half_an_image, "images", "do not decode"),
    "body frame": ("/camera/front/.*", flat(header__frame_id="base_link"), "optical frame", "base_link"),
    "K of other images": ("/camera/rear/camera_info", other_resolution, "calibration", "principal point"),
    "other lens": ("/camera/front/camera_info", longer_lens, "rig", "fx"),
    "no calibration": ("/camera/left/camera_info", uncalibrated, "calibration", "focal lengths 0"),
    "calibration missing": ("/camera/left/camera_info", nothing, "calibration", "no calibration"),
    "distortion": ("/camera/front/camera_info", distorted, "distortion", "-0.3"),
    "no odometry": (ODOMETRY, nothing, "missing topic", "no messages"),
    "no navigation": (NAVIGATION, nothing, "missing topic", "no messages"),
    "no truth": (TRUTH, nothing, "missing topic", "no messages"),
    "no map": ("/sim/map", nothing, "missing topic", "no messages"),
    "no cameras": ("/camera/.*", nothing, "missing topic", "no camera"),
    "no plan": (PLAN, nothing, "missing topic", "nobody planned"),
}  # fmt: skip
HARMLESS = {"other clock", "odom frame", "lost messages", "calibration missing", "distortion", "no plan"}
MAY_FOLLOW = {
    "steps",
    "short",
    "rig",
    "agents",
    "map",
    "plan",
    "navigation",
    "position jumps",
}  # a pose that is wrong moves others


def test_a_good_bag_has_no_finding(good, capsys):
    assert examine(good).findings == []
    assert main(Args(bags=(good,))) == 0
    assert "training: yes, replay: yes" in capsys.readouterr().out


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_and_named(name, raw, tmp_path):
    pattern, change, check, words = DEFECTS[name]
    report = examine(spoiled(raw, tmp_path / "bag", pattern, change), images=4)
    hits = [f for f in report.findings if f.check == check and re.search(words, f.found)]
    assert len(hits) == 1, report.findings
    assert hits[0].severity == ("warning" if name in HARMLESS else "error") and hits[0].way_out
    assert {f.check for f in report.findings} - {check} <= MAY_FOLLOW
    if not pattern.startswith((ODOMETRY, "(?!")):
        assert {f.check for f in report.findings} - {check} <= {"steps", "rig", "rate"}


def mounted(raw, path, turn):
    """The bag with a /tf_static of the rig's poses times a turn of the cameras."""
    message = blank("tf2_msgs/msg/TFMessage")
    for camera in load_rig("small").cameras:
        stamped = blank("geometry_msgs/msg/TransformStamped")
        stamped.header.frame_id, stamped.child_frame_id = "base_link", camera.name
        pose, place, q = camera.base_from_camera, stamped.transform.translation, stamped.transform.rotation
        place.x, place.y, place.z = map(float, pose[:3, 3])
        q.x, q.y, q.z, q.w = map(float, Rotation.from_matrix(pose[:3, :3] @ turn).as_quat())
        message.transforms.append(stamped)
    kind = "tf2_msgs/msg/TFMessage"
    return spoiled([("/tf_static", 10**9, kind, typestore().serialize_cdr(message, kind)), *raw], path, "-", nothing)


OPTICAL_FROM_BODY = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])


@pytest.mark.parametrize(
    "turn, check, words",
    [
        (np.eye(3), None, ""),
        (OPTICAL_FROM_BODY, "optical frame", "has body axes"),
        (Rotation.from_euler("z", 90, degrees=True).as_matrix(), "optical frame", "is turned"),
        (Rotation.from_euler("y", 20, degrees=True).as_matrix(), "mounting", "0.00 m and 20 degrees away"),
    ],
)
def test_camera_frames_are_optical_and_mounted_as_the_rig_says(raw, tmp_path, turn, check, words):
    findings = examine(mounted(raw, tmp_path / "bag", turn), images=4).findings
    assert {f.check for f in findings} == ({check} if check else set())
    assert all(words in f.found for f in findings) and len(findings) == (4 if check else 0)


def test_a_mounting_whose_rotation_nobody_filled_is_a_finding_and_no_crash(raw, tmp_path):
    kind, message = "tf2_msgs/msg/TFMessage", blank("tf2_msgs/msg/TFMessage")
    stamped = blank("geometry_msgs/msg/TransformStamped")  # its quaternion is all zeros
    stamped.header.frame_id, stamped.child_frame_id = "base_link", "front"
    message.transforms.append(stamped)
    bag = [("/tf_static", 10**9, kind, typestore().serialize_cdr(message, kind)), *raw]
    findings = examine(spoiled(bag, tmp_path / "bag", "-", nothing), images=4).findings
    assert {f.check for f in findings} == {"mounting"} and any("camera front" in f.found for f in findings)


def test_a_truncated_bag_is_found_and_what_is_whole_examined(good, tmp_path, capsys):
    (tmp_path / "bag").mkdir()
    whole = (good / "bag.mcap").read_bytes()
    (tmp_path / "bag" / "bag.mcap").write_bytes(whole[: len(whole) // 2])
    assert bags_in(tmp_path) == [tmp_path / "bag"]  # it has no metadata.yaml
    report = examine(tmp_path / "bag")
    (cut,) = [f for f in report.findings if f.severity == "error"]
    assert cut.check == "truncated" and "recover_bag" in cut.way_out
    assert 20 < report.topics[ODOMETRY]["messages"] < STEPS


def test_foreign_bags_are_told_from_ours(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for step in range(20):
            writer.write("/odom", blank("nav_msgs/msg/Odometry"), "nav_msgs/msg/Odometry", step * 10**8)
    (finding,) = examine(tmp_path / "bag").findings
    assert finding.check == "foreign bag" and "/odom (nav_msgs/msg/Odometry)" in finding.found
    (tmp_path / "empty").mkdir()
    (finding,) = examine(tmp_path / "empty").findings
    assert finding.check == "no bag" and "no .mcap file" in finding.found


def test_a_topic_under_another_name_is_suggested(raw, tmp_path):
    renamed = [("/odom" if topic == ODOMETRY else topic, *rest) for topic, *rest in raw]
    findings = examine(spoiled(renamed, tmp_path / "bag", "-", nothing)).findings
    assert [f.way_out for f in findings if f.subject == ODOMETRY] == ["rename /odom to it"]


def test_a_camera_with_a_clock_of_its_own_cannot_even_be_replayed(raw, tmp_path):
    def later(message, step):
        message.header.stamp.nanosec += 30_000_000
        return message

    report = examine(spoiled(raw, tmp_path / "bag", FRONT, later), images=4)
    (steps,) = [f for f in report.findings if f.check == "steps"]
    assert steps.found.startswith("0 of 70 ") and not report.good_for("replay") and not report.good_for("training")


def test_plans_are_compared_with_what_was_driven_half_a_second_later_at_any_rate(raw, tmp_path):
    findings = examine(spoiled(raw, tmp_path / "bag", PLAN, every_third), images=4).findings
    assert not [finding for finding in findings if finding.check == "plan"]


def test_places_between_two_poses_lie_on_the_way_and_are_unknown_over_gaps():
    stamps, omega = np.concatenate([np.arange(0, 2000, 50), np.arange(3000, 4000, 50)]) * 10**6, 0.3
    yaw = omega * stamps / 1e9
    poses = 20 * np.stack([np.sin(yaw), 1 - np.cos(yaw), yaw / 20], axis=1)
    motion = Motion(stamps, poses, *(np.zeros((len(stamps), n)) for n in (4, 2, 1)))
    wanted = np.arange(-500, 5000, 10) * 10**6
    angle = omega * wanted / 1e9
    there = ((wanted >= 0) & (wanted <= stamps[39])) | ((wanted > stamps[40]) & (wanted <= stamps[-1]))
    got = motion.place_at(wanted)
    np.testing.assert_allclose(got[there], 20 * np.stack([np.sin(angle), 1 - np.cos(angle)], 1)[there], atol=1e-3)
    assert np.isnan(got[~there]).all()


def test_the_exit_code_depends_on_the_use(raw, tmp_path, capsys):
    spoiled(raw, tmp_path / "bag", "/sim/.*", nothing)
    assert main(Args(bags=(tmp_path,), json=True)) == 1  # a folder of bags
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and not told["bags"][0]["training"] and told["bags"][0]["replay"]
    assert {f["subject"] for f in told["bags"][0]["findings"]} == {"/sim/ground_truth", "/sim/map"}
    assert told["bags"][0]["topics"][ODOMETRY]["hz"] == pytest.approx(10, abs=0.01)
    assert main(Args(bags=(tmp_path / "bag",), use="replay")) == 0
