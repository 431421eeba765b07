"""Laws of random access: whatever the order, a message is the one that a reader from start to end finds there."""

import pickle
import shutil

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from senna2_core import bag_index
from senna2_core.bag_index import index_bag, read_together
from senna2_core.bags import BagWriter, blank, read_bag, typestore
from senna2_core.messages import fill_jpeg, fill_odometry
from senna2_core.objects import EgoState

ODOMETRY, IMAGE = "nav_msgs/msg/Odometry", "sensor_msgs/msg/CompressedImage"


def messages(count=20):
    """Topic, type, message, record time; images are recorded 5 ms after their stamp."""
    rng = np.random.default_rng(0)
    for step in range(count):
        stamp = 10**9 + step * 10**8
        ego = EgoState(stamp_ns=stamp, x_m=step, y_m=0, yaw_rad=0, speed_mps=10, acceleration_mps2=0, yaw_rate_radps=0)
        yield "/ego/odometry", ODOMETRY, fill_odometry(blank(ODOMETRY), ego), stamp
        picture = rng.integers(0, 256, (20 + step, 30, 3), dtype=np.uint8)
        yield "/camera/front/compressed", IMAGE, fill_jpeg(blank(IMAGE), stamp, "front", picture), stamp + 5_000_000


def write(path, flush_every=7):
    with BagWriter(path) as writer:
        for number, (topic, kind, message, stamp) in enumerate(messages()):
            writer.write(topic, message, kind, stamp)
            if number % flush_every == 0:
                writer.flush()
    return path


def write_compressed(path, mode=CompressionMode.STORAGE):
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        known = {}
        for number, (topic, kind, message, stamp) in enumerate(messages()):
            if topic not in known:
                known[topic] = writer.add_connection(topic, kind, typestore=typestore())
            writer.write(known[topic], stamp, typestore().serialize_cdr(message, kind))
            if number % 7 == 0:
                writer.storage.close_chunk()
    return path


@pytest.fixture(scope="module", params=[write, write_compressed], ids=["plain", "zstd"])
def bag(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("bags") / "bag")


def test_any_order_gives_what_reading_from_start_to_end_gives(bag):
    wanted = {}
    for topic, stamp, message in read_bag(bag):
        wanted.setdefault(topic, []).append((stamp, typestore().serialize_cdr(message, message.__msgtype__)))
    index = index_bag(bag, checksums=True)
    assert index.topics.keys() == wanted.keys() and index.cut_at is None and not index.foreign
    for topic, entries in wanted.items():
        series = index[topic]
        assert series.record_ns.tolist() == [stamp for stamp, _ in entries]
        for at in np.random.default_rng(1).permutation(len(series)):
            assert typestore().serialize_cdr(series[at], series.type_name) == entries[at][1]
        np.testing.assert_array_equal(series.stamps_ns, 10**9 + np.arange(20) * 10**8)


def test_several_topics_at_once_are_the_same_messages(bag):
    index = index_bag(bag)
    chosen = [index["/ego/odometry"].pick([7, 3, 3]), index["/camera/front/compressed"][-2:]]
    for series, got in zip(chosen, read_together(chosen), strict=True):
        assert [m.header.stamp.nanosec for m in got] == [m.header.stamp.nanosec for m in series]
    assert [m.pose.pose.position.x for m in read_together(chosen)[0]] == [7, 3, 3]
    assert read_together([]) == []


def test_an_index_travels_to_another_process_and_opens_the_file_there(bag):
    series = index_bag(bag)["/camera/front/compressed"]
    copy = pickle.loads(pickle.dumps(series))  # as multiprocessing does
    assert [copy.raw(at) for at in range(20)] == [series.raw(at) for at in range(20)]


@pytest.mark.parametrize("make", [write, write_compressed])
def test_wherever_a_bag_is_cut_the_error_names_it_and_what_is_whole_remains(tmp_path, make):
    bag = make(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    whole, full = file.read_bytes(), index_bag(bag)["/ego/odometry"]
    before = -1
    for size in np.linspace(100, len(whole) - 1, 25).astype(int):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{bag}.*cut or damaged at byte.*recover_bag"):
            index_bag(bag)
        cut = index_bag(bag, allow_cut=True)
        assert cut.cut_at is not None and cut.cut_at <= size
        count = len(cut.topics.get("/ego/odometry", ()))
        assert before <= count <= len(full)
        before = count
        if count:
            np.testing.assert_array_equal(cut["/ego/odometry"].stamps_ns, full.stamps_ns[:count])
            assert cut["/ego/odometry"][count - 1].pose.pose.position.x == count - 1
    assert before == 20  # only the summary was cut


def test_damage_is_found(tmp_path):
    bag = write(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 4000] = bytes(4000)
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=f"{bag}.*damaged"):
        index_bag(bag)


def test_a_damaged_chunk_is_an_error_that_names_the_bag(tmp_path):
    bag = write_compressed(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    whole, frame = file.read_bytes(), bytes.fromhex("28b52ffd")  # a zstd frame begins with this
    assert frame in whole
    file.write_bytes(whole.replace(frame, bytes(4)))
    with pytest.raises(ValueError, match=f"{bag}.*no readable bag .chunk at byte"):
        index_bag(bag)


def test_a_file_that_changed_meanwhile_is_an_error_not_another_image(tmp_path):
    series = index_bag(write(tmp_path / "bag"))["/camera/front/compressed"]
    shutil.rmtree(tmp_path / "bag")
    write(tmp_path / "bag", flush_every=3)
    with pytest.raises(ValueError, match="changed since"):
        [series[at] for at in range(20)]


def test_what_is_no_bag_of_ours_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="no .mcap file there"):
        index_bag(tmp_path)
    (tmp_path / "notes.mcap").write_text("not a bag")
    with pytest.raises(ValueError, match="metadata"):
        index_bag(tmp_path)
    with pytest.raises(ValueError, match="does not begin like"):
        index_bag(tmp_path, allow_cut=True)
    one_by_one = write_compressed(tmp_path / "one_by_one", CompressionMode.MESSAGE)
    with pytest.raises(ValueError, match="ros2 bag convert"):
        index_bag(one_by_one)
    index = index_bag(write(tmp_path / "bag"))
    with pytest.raises(ValueError, match="no topic /nothing; the bag has /camera/front/compressed, /ego/odometry"):
        index["/nothing"]


def test_another_version_of_a_type_is_not_decoded(tmp_path, monkeypatch):
    bag = write(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    old, new = b"string child_frame_id", b"string other_frame_id"
    assert old in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(ValueError, match="/ego/odometry was recorded with another version of nav_msgs/msg/Odometry"):
        index_bag(bag)["/ego/odometry"]
    assert len(index_bag(bag)["/camera/front/compressed"]) == 20


def test_chunks_are_decompressed_once_while_they_are_read_in_order(tmp_path):
    index = index_bag(write_compressed(tmp_path / "bag"))
    bag_index._chunk.cache_clear()
    read_together([index["/ego/odometry"], index["/camera/front/compressed"]])
    assert bag_index._chunk.cache_info().misses == len({row["chunk"] for row in index["/ego/odometry"].rows})
