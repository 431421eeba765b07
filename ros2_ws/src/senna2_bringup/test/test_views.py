"""The committed views of RViz and Foxglove show topics that the graph has, with the fields that they have."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from senna2_bringup.topics import TOPICS, camera_topics
from senna2_core.actions import Decision, PathClass
from senna2_core.bags import typestore
from senna2_core.markers_node import plan_marker
from senna2_core.messages import Consistency
from senna2_core.objects import EgoState

VIEW = Path(__file__).parents[1] / "view"
KNOWN = TOPICS | camera_topics()
SHOWN_BY = {"MarkerArray": "visualization_msgs/msg/MarkerArray", "Path": "nav_msgs/msg/Path",
            "Odometry": "nav_msgs/msg/Odometry", "Image": "sensor_msgs/msg/Image"}  # fmt: skip


def type_of(topic: str) -> str:
    """Of a topic of the graph; raw images come beside the compressed ones, recorded plans in a replay."""
    if topic.endswith("/image_raw"):
        return KNOWN[topic.replace("image_raw", "compressed")].replace("CompressedImage", "Image")
    return KNOWN[topic.removeprefix("/recorded")]


def has_field(type_name: str, field: str) -> bool:
    """Whether a dotted field exists in a message."""
    name, _, rest = field.partition(".")
    fields = dict(typestore().get_msgdef(type_name).fields)
    if name not in fields:
        return False
    return not rest or has_field(fields[name][1], rest)


def strings(node: Any, *keys: str) -> list[str]:
    """All texts under these keys, at any depth."""
    if isinstance(node, list):
        return [text for each in node for text in strings(each, *keys)]
    if not isinstance(node, dict):
        return []
    own = [value for key, value in node.items() if key in keys and isinstance(value, str)]
    return own + [text for value in node.values() for text in strings(value, *keys)]


def leaves(node: Any) -> list[str]:
    return [node] if isinstance(node, str) else leaves(node["first"]) + leaves(node["second"])


def test_foxglove_shows_fields_that_exist_and_places_every_panel_once():
    layout = json.loads((VIEW / "foxglove.json").read_text())
    panels = layout["configById"]
    assert sorted(leaves(layout["layout"])) == sorted(panels)
    topics = [topic for panel in panels.values() for topic in panel.get("topics", {})]
    for topic in topics + strings(panels, "imageTopic", "calibrationTopic", "topicName"):
        assert topic in KNOWN, topic
    paths = [panel["paths"] for panel in panels.values() if "paths" in panel]
    shown = strings(paths, "value") + strings(panels, "path", "topicPath")
    for topic, _, field in (path.partition(".") for path in shown):
        assert has_field(KNOWN[topic], field), (topic, field)
    fields = dict(typestore().get_msgdef("senna2_msgs/msg/Consistency").fields)
    assert {path.split(".", 1)[1] for path in shown if path.startswith("/planner/consistency.")} == fields.keys() - {
        "header"
    }


def test_foxglove_has_buttons_that_force_decisions_and_one_that_lets_go():
    panels = json.loads((VIEW / "foxglove.json").read_text())["configById"]
    buttons = [panel for name, panel in panels.items() if name.startswith("Publish!")]
    assert all(button["datatype"] == TOPICS[button["topicName"]] for button in buttons)
    texts = [json.loads(button["value"])["data"] for button in buttons]
    assert texts.count("") == 1 and len({Decision.from_text(text) for text in texts if text}) == len(texts) - 1


def test_rviz_shows_topics_that_exist_with_the_display_for_their_type():
    config = yaml.safe_load((VIEW / "senna2.rviz").read_text())["Visualization Manager"]
    displays = {display["Topic"]["Value"]: display for display in config["Displays"]}
    for topic, display in displays.items():
        assert SHOWN_BY[display["Class"].split("/")[1]] == type_of(topic), topic
    assert config["Global Options"]["Fixed Frame"] == "map" and "/planner/markers" in displays
    assert displays["/sim/markers"]["Topic"]["Durability Policy"] == "Transient Local"  # the map is sent once


def test_the_plan_is_drawn_from_the_car_on_in_map_and_its_colour_and_words_tell_the_verdict():
    ego = EgoState(stamp_ns=5, x_m=3.0, y_m=-2.0, yaw_rad=np.pi / 2, speed_mps=5, acceleration_mps2=0,
                   yaw_rate_radps=0)  # fmt: skip
    plan = np.stack([0.5 * np.arange(1, 41), np.zeros(40), np.zeros(40)], axis=1)
    decision = Decision.from_text("stop, turn left")
    tick = Consistency(stamp_ns=5, decision=decision, speed=2, path=PathClass.STRAIGHT, agree=False, decision_age_s=0.2)
    shown = [plan_marker(5, ego, plan, check) for check in (None, tick, replace(tick, agree=True))]
    for message in shown:
        line, text = message.markers
        np.testing.assert_allclose([(p.x, p.y) for p in line.points], [(3, 0.5 * k - 2) for k in range(41)], atol=1e-9)
        assert {line.header.frame_id, text.header.frame_id} == {"map"} and line.header.stamp.nanosec == 5
    assert len({(m.markers[0].color.r, m.markers[0].color.g) for m in shown}) == 3
    words = [message.markers[1].text for message in shown]
    assert "no decision" in words[0] and "disagrees" in words[1] and "disagrees" not in words[2]
    assert all("stop, turn left (200 ms ago)" in text and "keep, straight" in text for text in words[1:])
