"""Laws of loading: images stay in their files, workers change nothing, what cannot be read is named."""

import dataclasses
import pickle
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from senna2_core.bags import BagWriter, read_bag, typestore
from training import loading
from training.data import find_bags, load_drive, load_drives, sequence_starts, shuffled
from training.loading import decoded, in_background


@pytest.fixture(scope="module")
def drive(bags):
    return load_drive(bags / "empty_road-0000")


def copied(bag, out, keep=lambda topic: True, later_ns=0):
    """The bag without some topics, recorded later than its stamps."""
    with BagWriter(out) as writer:
        for topic, stamp, message in read_bag(bag):
            if keep(topic):
                raw = typestore().serialize_cdr(message, message.__msgtype__)
                writer.write_raw(topic, message.__msgtype__, raw, stamp + later_ns)
    return out


def test_a_drive_does_not_hold_its_images(bags, drive):
    held = len(pickle.dumps(drive))
    assert held < (bags / drive.name / f"{drive.name}.mcap").stat().st_size / 5


def test_a_drive_that_travelled_shows_the_same_images(drive):
    copy = pickle.loads(pickle.dumps(drive))  # as multiprocessing does
    for step in (33, 0, 59):
        for camera, image in drive.images(step).items():
            np.testing.assert_array_equal(copy.image(camera, step), image)


def test_images_belong_to_their_step(bags, drive):
    from senna2_core.messages import read_image

    wanted = [read_image(m) for _, _, m in read_bag(bags / drive.name, ["/camera/left/compressed"])]
    for step in (5, 59, 17):
        np.testing.assert_array_equal(drive.image("left", step), wanted[step])


def test_steps_are_matched_by_stamp_whenever_they_were_recorded(bags, drive, tmp_path):
    live = load_drive(copied(bags / drive.name, tmp_path / "live", later_ns=10**17))
    assert [ego.stamp_ns for ego in live.ego] == [ego.stamp_ns for ego in drive.ego]


def test_a_bag_in_which_nobody_planned_trains_on_what_was_driven(bags, drive, tmp_path):
    human = load_drive(copied(bags / drive.name, tmp_path / "human", lambda topic: topic != "/planner/trajectory"))
    np.testing.assert_array_equal(human.driven, drive.driven)
    assert len(sequence_starts([human], 16, "odometry")) == len(sequence_starts([drive], 16, "odometry"))
    with pytest.raises(ValueError, match="target odometry"):
        sequence_starts([human], 16, "plan")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(drive, workers):
    places = np.array([(0, step) for step in range(len(drive))])
    make = partial(decoded, [drive], places, 3)
    before = torch.random.get_rng_state()
    batches = list(in_background(make, range(2, 6), workers))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(batches) == 4
    for step, batch in zip(range(2, 6), batches, strict=True):
        for got, wanted in zip(batch, make(step), strict=True):
            assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_resuming_goes_on_where_the_first_run_would_have(drive):
    make = partial(shuffled, 50, 4, 0)
    whole = list(in_background(make, range(8), 2))
    assert np.array_equal(whole[5:], list(in_background(make, range(5, 8), 1)))


def test_what_breaks_in_a_worker_is_told_here(tmp_path):
    with pytest.raises(ValueError, match="no training bags"):
        next(in_background(partial(broken, tmp_path), range(3), 1))


def broken(folder, step):
    find_bags(folder, "training")


def test_bad_bags_are_named_and_skipped_only_on_request(bags, tmp_path, capsys):
    good, cut, foreign = (tmp_path / name for name in ("good", "cut", "foreign"))
    shutil.copytree(bags / "empty_road-0000", good)
    shutil.copytree(bags / "empty_road-0001", cut)
    file = cut / "empty_road-0001.mcap"
    file.write_bytes(file.read_bytes()[:100_000])
    copied(bags / "empty_road-0002", foreign, lambda topic: "ego" not in topic)
    for bad, why in ((cut, "cut or damaged at byte"), (foreign, "no topic /ego/odometry")):
        with pytest.raises(ValueError, match=f"{re.escape(str(bad))}.*{why}"):
            load_drives([good, bad], "bags")
    assert [drive.name for drive in load_drives([cut, good, foreign], "bags", skip_bad=True)] == ["good"]
    said = capsys.readouterr().err
    assert "skipped 2 of 3 bags" in said and str(cut) in said and str(foreign) in said and "/ego/odometry" in said
    with pytest.raises(ValueError, match="none of 1 bags"):
        load_drives([cut], "bags", skip_bad=True)


def test_an_image_that_does_not_decode_is_named(drive):
    message = drive.frames["front"][3]
    message.data = message.data[:60]
    broken = dataclasses.replace(drive, frames={"front": [message]})
    with pytest.raises(ValueError, match="empty_road-0000: camera front, step 0: .*wanted a whole JPEG"):
        broken.image("front", 0)


def test_rates_are_told_for_every_number_of_workers(bags, capsys):
    rates = loading.main(loading.Args(bags=bags, workers=(0, 1), batch=2, batches=3, most=2))
    assert [rate.name for rate in rates[2:]] == ["decoded, 0 worker processes", "decoded, 1 worker processes"]
    assert all(rate.samples_per_s > 0 and rate.mb_per_s > 0 for rate in rates)
    assert rates[0].samples_per_s > rates[2].samples_per_s  # decoding costs more than reading
    assert "bound by" in capsys.readouterr().out
