"""Is it a bag, is it whole, does it have the topics?"""

import re
from collections.abc import Iterator

from senna2_core.bag_index import index_bag
from training.data import MAP, PLAN
from training.doctor.bag import BOTH, IMAGE, NAVIGATION, ODOMETRY, TRUTH, TYPES, Bag, Finding, Use, error, warning

NEEDED: dict[str, tuple[Use, ...]] = {ODOMETRY: BOTH, NAVIGATION: BOTH, TRUTH: ("training",), MAP: ("training",)}


def check_file(bag: Bag) -> Iterator[Finding]:
    """Cut files, metadata that are missing or tell of another file."""
    path, messages = bag.index.path, sum(map(len, bag.index.topics.values()))
    metadata = path / "metadata.yaml"
    if bag.index.cut_at is not None:
        yield error(
            "truncated", path.name, f"the file is cut or damaged at byte {bag.index.cut_at}", "a closed MCAP file",
            f"senna2_core.bags.recover_bag keeps the {messages} messages before it, or record it again",
        )  # fmt: skip
    elif not metadata.is_file():
        yield error(
            "truncated", path.name, "no metadata.yaml", "a closed bag", "`ros2 bag reindex`, or record it again"
        )
    elif (said := re.search(r"^  message_count: (\d+)", metadata.read_text(), re.M)) and int(said[1]) != messages:
        yield warning(
            "metadata", path.name, f"metadata.yaml tells of {said[1]} messages, the file has {messages}", "the same",
            "delete metadata.yaml, then `ros2 bag reindex`",
        )  # fmt: skip


def check_topics(bag: Bag) -> Iterator[Finding]:
    """Missing topics, other types, other versions."""
    present = {topic: one.type_name for topic, one in bag.index.topics.items()}
    ours = [topic for topic in present if topic in TYPES or topic.startswith("/camera/")]
    if not ours:
        names = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(present.items())) or "nothing"
        yield error(
            "foreign bag", bag.index.path.name, f"it has {names}", f"{', '.join(NEEDED)} and /camera/NAME/compressed",
            "record with remaps to these names, or convert it",
        )  # fmt: skip
        return
    for topic in ours:
        wanted = TYPES.get(topic) or (IMAGE if topic.endswith("/compressed") else present[topic])
        if present[topic] != wanted:
            yield error("type", topic, present[topic], wanted, "convert the messages, or record the right topic")
        elif topic in bag.index.foreign:
            yield error("type", topic, bag.index.foreign[topic], "the present one", "record or convert the bag again")
    for topic, concerns in NEEDED.items():
        if not len(bag.index.topics.get(topic, ())):
            yield error("missing topic", topic, "no messages", TYPES[topic], _remap(present, TYPES[topic]), concerns)
    if not bag.cameras:
        raw = [topic for topic, kind in present.items() if kind == "sensor_msgs/msg/Image"]
        hint = f"compress {', '.join(raw)} (image_transport republish)" if raw else _remap(present, IMAGE)
        yield error("missing topic", "/camera/NAME/compressed", "no camera", IMAGE, hint)
    if PLAN not in present:
        yield warning(
            "missing topic", PLAN, "nobody planned", TYPES[PLAN], "train with --target odometry", ("training",)
        )  # fmt: skip


def _remap(present: dict[str, str], kind: str) -> str:
    alike = [topic for topic, other in present.items() if other == kind and topic not in TYPES]
    return f"rename {' or '.join(alike)} to it" if alike else "record it, or add it when converting"


def opened(path: str) -> tuple[Bag | None, list[Finding]]:
    """The bag if there is one, and what is wrong with it as a file."""
    try:
        bag = Bag(index_bag(path, allow_cut=True, checksums=True))
    except (ValueError, OSError) as problem:
        found = str(problem).removeprefix(f"{path}: ")
        return None, [
            error("no bag", path, found, "a rosbag2 folder with MCAP files", "name such a folder, or convert")
        ]
    return bag, [*check_file(bag), *check_topics(bag)]
