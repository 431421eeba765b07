import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg

from senna2_core import bags
from senna2_core.bags import BagWriter, bag_topics, blank, read_bag, recover_bag, typestore
from senna2_core.messages import fill_tokens, fill_trajectory, read_tokens, read_trajectory

TRAJECTORY, TOKENS = "senna2_msgs/msg/Trajectory", "senna2_msgs/msg/SceneTokens"


def stamp(k):
    return 10**9 + k * 10**8


def trajectory(k):
    return fill_trajectory(blank(TRAJECTORY), stamp(k), np.full((40, 3), k + 0.5))


def record(path, count=20):
    """Two topics, `count` messages each; stamp k carries the value k."""
    with BagWriter(path) as writer:
        for k in range(count):
            writer.write("/plan", trajectory(k), TRAJECTORY, stamp(k))
            writer.write("/tokens", fill_tokens(blank(TOKENS), stamp(k), np.full((3, 5), k)), TOKENS, stamp(k))
            if k % 5 == 4:
                writer.flush()
    return path


def contents(path):
    return [
        (topic, ns, float(read_trajectory(msg)[0, 0] - 0.5 if topic == "/plan" else read_tokens(msg)[0, 0]))
        for topic, ns, msg in read_bag(path)
    ]


EXPECTED = [(topic, stamp(k), k) for k in range(20) for topic in ("/plan", "/tokens")]


def test_what_is_written_is_read_in_order(tmp_path):
    path = record(tmp_path / "a/bag")
    assert contents(path) == EXPECTED
    assert bag_topics(path) == {"/plan": (TRAJECTORY, 20), "/tokens": (TOKENS, 20)}
    assert [t for t, _, _ in read_bag(path, ["/plan"])] == ["/plan"] * 20


def test_messages_out_of_order_are_read_in_order_of_their_stamps(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for k in (5, 1, 3, 0, 4, 2):
            writer.write("/plan", trajectory(k), TRAJECTORY, stamp(k))
            writer.flush()
    assert [ns for _, ns, _ in read_bag(tmp_path / "bag")] == [stamp(k) for k in range(6)]


def test_the_reference_library_reads_our_bags(tmp_path):
    reader = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    path = record(tmp_path / "bag")
    with (path / "bag.mcap").open("rb") as stream:
        decoded = [
            (channel.topic, message.log_time)
            for _, channel, message, _ in reader.make_reader(
                stream, decoder_factories=[decoder.DecoderFactory()]
            ).iter_decoded_messages()
        ]
    assert decoded == [entry[:2] for entry in EXPECTED]


def test_metadata_says_what_ros2_bag_info_asks_for(tmp_path):
    path = record(tmp_path / "bag")
    info = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (info["version"], info["storage_identifier"], info["relative_file_paths"]) == (9, "mcap", ["bag.mcap"])
    assert info["message_count"] == 40
    assert info["starting_time"]["nanoseconds_since_epoch"] == stamp(0)
    assert info["duration"]["nanoseconds"] == stamp(19) - stamp(0)
    assert info["compression_mode"] == info["compression_format"] == ""
    topic = info["topics_with_message_count"][0]["topic_metadata"]
    assert (topic["name"], topic["type"], topic["serialization_format"]) == ("/plan", TRAJECTORY, "cdr")


def test_our_type_hashes_are_those_of_rosidl():
    folder = Path(sys.prefix) / "share/senna2_msgs/msg"
    files = sorted(folder.glob("*.json"))
    if not files:
        pytest.skip("senna2_msgs is not built")
    for file in files:
        hashes = {h["type_name"]: h["hash_string"] for h in json.loads(file.read_text())["type_hashes"]}
        assert typestore().hash_rihs01(f"senna2_msgs/msg/{file.stem}") == hashes[f"senna2_msgs/msg/{file.stem}"]


def test_raw_messages_from_the_wire_are_stored_as_they_are(tmp_path):
    serialization = pytest.importorskip("rclpy.serialization", reason="needs ROS 2")
    messages = pytest.importorskip("senna2_msgs.msg", reason="needs senna2_msgs built")
    data = serialization.serialize_message(fill_trajectory(messages.Trajectory(), stamp(7), np.full((40, 3), 7.5)))
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_raw("/plan", TRAJECTORY, data, stamp(7))
    assert contents(tmp_path / "bag") == [("/plan", stamp(7), 7)]


@pytest.mark.parametrize("name", ["senna2_msgs/msg/Decision", "sensor_msgs/msg/CameraInfo", "nav_msgs/msg/Odometry"])
def test_blank_messages_can_be_written(name):
    store = typestore()
    assert store.deserialize_cdr(store.serialize_cdr(blank(name), name), name) is not None


def test_every_senna2_message_has_a_blank():
    names = [name for name in typestore().types if name.startswith("senna2_msgs/")]
    assert len(names) >= 10
    for name in names:
        typestore().serialize_cdr(blank(name), name)
    assert len(blank("senna2_msgs/msg/Decision").probabilities) == 20


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wanted PACKAGE/msg/NAME"):
        blank("senna2_msgs/msg/Nothing")
    with BagWriter(tmp_path / "bag") as writer, pytest.raises(ValueError, match="of /x is unknown"):
        writer.write_raw("/x", "a/msg/B", b"", 0)


def test_one_topic_has_one_type(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/plan", trajectory(0), TRAJECTORY, stamp(0))
        with pytest.raises(ValueError, match="one topic, one type"):
            writer.write_raw("/plan", TOKENS, b"", 0)


def test_a_bag_is_never_overwritten(tmp_path):
    record(tmp_path / "bag")
    with pytest.raises(ValueError, match="exists already"):
        BagWriter(tmp_path / "bag")


def test_an_empty_bag_is_a_bag(tmp_path):
    BagWriter(tmp_path / "bag").close()
    assert list(read_bag(tmp_path / "bag")) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_closes_the_bag(tmp_path, error):
    with pytest.raises(error), BagWriter(tmp_path / "bag") as writer:
        writer.write("/plan", trajectory(0), TRAJECTORY, stamp(0))
        raise error
    assert contents(tmp_path / "bag") == EXPECTED[:1]
    with pytest.raises(ValueError, match="closed"):
        writer.write("/plan", trajectory(1), TRAJECTORY, stamp(1))


# --- Bags that are not whole -----------------------------------------------------------------------------------------
def cut(path, size, data):
    (path / "metadata.yaml").unlink(missing_ok=True)
    (path / f"{path.name}.mcap").write_bytes(data[:size])


def test_recovery_keeps_everything_up_to_the_cut(tmp_path):
    path = record(tmp_path / "bag")
    data = (path / "bag.mcap").read_bytes()
    serialized = [typestore().serialize_cdr(trajectory(k), TRAJECTORY) for k in range(20)]
    ends = [data.index(bytes(s)) + len(s) for s in serialized]  # where each plan is whole in the file
    offsets = {
        *range(40, len(data), len(data) // 25),
        *ends[::3],
        *(end - 1 for end in ends[::3]),
        len(data) - 1,
        len(data),
    }
    for size in sorted(offsets):
        cut(path, size, data)
        kept = recover_bag(path)
        got = contents(path)
        assert got == EXPECTED[: len(got)] and len(got) == kept
        assert sum(topic == "/plan" for topic, _, _ in got) == sum(end <= size for end in ends)
        assert sorted(p.name for p in path.iterdir()) == ["bag.mcap", "metadata.yaml"]


def test_recovery_works_without_the_metadata_alone_and_with_another_file_name(tmp_path):
    path = record(tmp_path / "bag")
    data = (path / "bag.mcap").read_bytes()
    (path / "metadata.yaml").unlink()
    (path / "notes.txt").write_text("stays")
    (path / "bag.mcap").rename(path / "other_0.mcap")
    (path / "other_0.mcap").write_bytes(data[:-20])
    assert recover_bag(path) == 40
    assert contents(path) == EXPECTED
    assert sorted(p.name for p in path.iterdir()) == ["bag.mcap", "metadata.yaml", "notes.txt"]


def test_a_whole_bag_is_left_alone_by_recovery(tmp_path):
    path = record(tmp_path / "bag")
    before = {p: p.stat().st_mtime_ns for p in path.iterdir()}
    assert recover_bag(path) == 40
    assert {p: p.stat().st_mtime_ns for p in path.iterdir()} == before


def test_garbage_after_the_cut_does_no_harm(tmp_path):
    path = record(tmp_path / "bag")
    data = (path / "bag.mcap").read_bytes()
    for tail in (bytes(5000), b"\xff" * 5000, np.random.default_rng(0).bytes(5000)):
        cut(path, None, data[: len(data) // 2] + tail)
        recover_bag(path)
        got = contents(path)
        assert 10 < len(got) < 30 and got[:10] == EXPECTED[:10]


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0" + bytes(100), bytes(8)])
def test_what_is_no_bag_cannot_be_recovered(tmp_path, content):
    folder = tmp_path / "bag"
    folder.mkdir()
    if content is not None:
        (folder / "bag.mcap").write_bytes(content)
    with pytest.raises(ValueError, match=r"no .mcap file|does not begin like an MCAP"):
        recover_bag(folder)
    assert sorted(p.name for p in folder.iterdir()) == ([] if content is None else ["bag.mcap"])


def test_reading_what_is_not_whole_says_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match="no readable bag"):
        list(read_bag(tmp_path / "nothing"))
    path = record(tmp_path / "bag")
    with pytest.raises(ValueError, match="no topic /camera; the bag has /plan, /tokens"):
        list(read_bag(path, ["/camera", "/plan"]))
    data = (path / "bag.mcap").read_bytes()
    for size in range(0, len(data), len(data) // 25):  # the metadata stays: a copy that was cut
        (path / "bag.mcap").write_bytes(data[:size])
        with pytest.raises(ValueError, match="recover_bag"):
            list(read_bag(path))
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: [1, 2]")
    with pytest.raises(ValueError, match="no readable bag"):
        list(read_bag(path))


def test_another_version_of_a_message_is_refused(tmp_path):
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/plan", TRAJECTORY, msgdef="float64 x\n", rihs01="RIHS01_" + "0" * 64)
    with pytest.raises(ValueError, match="another version of senna2_msgs/msg/Trajectory"):
        list(read_bag(tmp_path / "bag"))


def test_foreign_types_are_read_with_the_definition_in_the_bag(tmp_path):
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_KILTED)
    store.register(get_types_from_msg("float64 metres\nstring name", "elsewhere_msgs/msg/Length"))
    msg = store.types["elsewhere_msgs/msg/Length"](metres=2.5, name="x")
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/length", "elsewhere_msgs/msg/Length", typestore=store)
        writer.write(connection, 5, store.serialize_cdr(msg, "elsewhere_msgs/msg/Length"))
    ((topic, ns, got),) = read_bag(tmp_path / "bag")
    assert (topic, ns, got.metres, got.name) == ("/length", 5, 2.5, "x")


# --- Writers that do not end well ------------------------------------------------------------------------------------
WRITING = """
import sys, time
import numpy as np
from senna2_core.bags import BagWriter, blank
from senna2_core.messages import fill_trajectory
with BagWriter(sys.argv[1]) as writer:
    for k in range(10**6):
        now = time.time_ns()
        msg = fill_trajectory(blank("senna2_msgs/msg/Trajectory"), now, np.full((40, 3), k))
        writer.write("/plan", msg, "senna2_msgs/msg/Trajectory", now)
        print(k, flush=True)
        time.sleep(0.02)
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_writer_loses_at_most_a_second(tmp_path, signal_number):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(tmp_path / "bag")], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.6)
    killed_ns = time.time_ns()
    process.send_signal(signal_number)
    process.communicate(timeout=10)
    with pytest.raises(ValueError, match="recover_bag"):
        list(read_bag(tmp_path / "bag"))
    recover_bag(tmp_path / "bag")
    values = [read_trajectory(msg)[0, 0] for _, _, msg in read_bag(tmp_path / "bag")]
    assert values == list(range(len(values)))
    last_ns = [ns for _, ns, _ in read_bag(tmp_path / "bag")][-1]
    assert killed_ns - last_ns < 1.0e9


def test_a_writer_killed_before_its_first_message_leaves_an_empty_bag(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    on_disk = (tmp_path / "bag/bag.mcap").read_bytes()
    writer.close()
    cut(tmp_path / "bag", None, on_disk)
    assert recover_bag(tmp_path / "bag") == 0
    assert list(read_bag(tmp_path / "bag")) == []


def test_a_full_disk_is_an_error_that_keeps_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bags, "FLUSH_PERIOD_S", 0.0)
    writer = BagWriter(tmp_path / "bag")
    for k in range(5):
        writer.write("/plan", trajectory(k), TRAJECTORY, stamp(k))

    class Full:
        """A file on a full disk."""

        def __init__(self, file):
            self.tell, self.flush, self.close = file.tell, file.flush, file.close

        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = writer._writer.storage.bio
    writer._writer.storage.bio = Full(real)
    with pytest.raises(OSError, match=r"cannot write the bag \(No space left on device\); .*recover_bag") as caught:
        writer.write("/plan", trajectory(5), TRAJECTORY, stamp(5))
    assert caught.value.errno == errno.ENOSPC
    assert writer.closed and real.closed
    writer.close()
    assert recover_bag(tmp_path / "bag") >= 4


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import numpy as np
from senna2_core.bags import BagWriter, blank
from senna2_core.messages import fill_trajectory
with BagWriter(sys.argv[1]) as writer:
    for k in range(100):
        writer.write("/plan", fill_trajectory(blank("senna2_msgs/msg/Trajectory"), k, np.full((40, 3), k)),
                     "senna2_msgs/msg/Trajectory", k)
        writer.flush()
"""


def test_a_file_that_may_not_grow_ends_like_a_full_disk(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "bag")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert result.returncode == 1
    assert "cannot write the bag (File too large)" in result.stderr.splitlines()[-1]
    kept = recover_bag(tmp_path / "bag")
    assert kept >= 20
    assert [ns for _, ns, _ in read_bag(tmp_path / "bag")] == list(range(kept))
