"""Isolation: a ROS domain of our own, so that two graphs on one machine do not hear each other; clean shared memory."""

import fcntl
import os
import random
import socket
import tempfile
import time
from pathlib import Path
from typing import IO

LAST_DOMAIN = 100  # higher ones reach into Linux' ephemeral ports
SHARED_MEMORY = Path("/dev/shm")


class Domain:
    """A free ROS_DOMAIN_ID, held until `release`. ROS_DOMAIN_ID in the environment wins over choosing one."""

    def __init__(self) -> None:
        self._lock: IO[str] | None = None
        given = os.environ.get("ROS_DOMAIN_ID")
        self.own = given is None
        self.id = int(given) if given is not None else self._claim()

    def _claim(self) -> int:
        for candidate in random.SystemRandom().sample(range(1, LAST_DOMAIN + 1), LAST_DOMAIN):
            lock = _try_lock(Path(tempfile.gettempdir()) / f"senna2-ros-domain-{candidate}.lock")
            if lock is None:
                continue
            if not _in_use(candidate):
                self._lock = lock
                return candidate
            lock.close()
        raise OSError("no free ROS domain between 1 and 100: end other graphs, or set ROS_DOMAIN_ID")

    def release(self) -> None:
        """Give the domain back and remove what killed processes left in shared memory."""
        remove_orphans()
        for path in SHARED_MEMORY.glob("*fastdds_port*") if self.own else ():
            number = path.name.partition("_port")[2].partition("_")[0]
            if int(number) in _ports(self.id):  # those from 7000 on belong to all domains together
                path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()


def remove_orphans(min_age_s: float = 2.0) -> None:
    """Remove the Fast DDS segments of processes that died without doing so; a living owner holds a lock on NAME_el.

    Younger ones than min_age_s are left alone: their owner may be about to take the lock.
    """
    for path in SHARED_MEMORY.glob("fastdds_" + 16 * "[0-9a-f]" + "_el"):
        try:
            if time.time() - path.stat().st_mtime < min_age_s:
                continue
        except OSError:  # just removed by its owner
            continue
        lock = _try_lock(path, "r")
        if lock is not None:
            path.with_name(path.name.removesuffix("_el")).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            lock.close()


def _try_lock(path: Path, mode: str = "w") -> IO[str] | None:
    """The locked file, or None when somebody else holds it. The lock dies with its process."""
    try:
        file = path.open(mode)
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _ports(domain: int) -> range:
    """All UDP and shared-memory ports of a domain (RTPS specification 9.6.1)."""
    return range(7400 + 250 * domain, 7400 + 250 * (domain + 1))


def _in_use(domain: int) -> bool:
    """Whether a participant of this domain exists on this machine: it holds the first unicast port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", _ports(domain)[10]))
        except OSError:
            return True
    return False
