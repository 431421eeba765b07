"""Where frames come from: a film, a folder of images, a video device; and how they become those of a rig's camera."""

import re
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from senna2_perception.pinhole import ASPECT_TOLERANCE, Lens, lookup, redraw, samples_per_pixel

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SILENCE_S = 2.0  # a device that says nothing for this long is gone


class Frame(NamedTuple):
    """A picture and when it was taken."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    age_s: float  # since it came from the device; 0 from files


class Source(Protocol):
    """Frames, one per call, at the rate that the source was opened with."""

    def read(self) -> Frame | None:
        """The next frame; None at the end. ValueError: this one cannot be read; OSError: none will come any more."""

    def close(self) -> None:
        """Release file or device."""


def open_source(name: str, rate_hz: float, loop: bool) -> Source:
    """The source of that name: number or /dev path of a video device, a folder of images, or a film.

    Raises:
        ValueError: there is no such thing, or it holds no frames.
    """
    path = Path(name)
    if name.isdigit() or re.fullmatch(r"/dev/video\d+", name):
        number = int(name) if name.isdigit() else int(name.removeprefix("/dev/video"))
        capture = cv2.VideoCapture(number, cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if not capture.isOpened():
            raise ValueError(
                f'source: got video device "{name}", which does not open; `v4l2-ctl --list-devices` lists those there '
                "are, `fuser /dev/video*` tells who uses them"
            )
        return DeviceSource(capture, name)
    if path.is_dir():
        return FolderSource(path, loop)
    if not path.is_file():
        raise ValueError(f'source: got "{name}", no such file; wanted a film, a folder of images or a video device')
    return FilmSource(path, rate_hz, loop)


class FilmSource:
    """A film, in its own time: frames are left out or repeated where its rate is another."""

    def __init__(self, path: Path, rate_hz: float, loop: bool):
        self._path, self._loop = path, loop
        self._film = cv2.VideoCapture(str(path))
        if not self._film.isOpened() or not self._film.grab():
            raise ValueError(f"source: {path} does not open as a film; play it with ffplay to see whether it is whole")
        fps = self._film.get(cv2.CAP_PROP_FPS)
        if not 0 < fps < 1e4:
            raise ValueError(f"source: {path} says {fps} frames per second, wanted a film with a rate")
        self._frames_per_tick = fps / rate_hz
        self._tick, self._index = 0, 0  # the latter: of the frame grabbed last

    def read(self) -> Frame | None:
        """The film's frame at the time of this call, counted from the first."""
        due = int(self._tick * self._frames_per_tick + 1e-6)
        while self._index < due:
            if not self._film.grab():
                if not self._loop:
                    return None
                self.close()
                self._film = cv2.VideoCapture(str(self._path))
                if not self._film.grab():
                    raise OSError(f"source: {self._path} can no longer be read")
                self._tick = self._index = due = 0
                break
            self._index += 1
        self._tick += 1
        whole, image = self._film.retrieve()
        if not whole:
            raise ValueError(f"{self._path}: frame {self._index} does not decode")
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), 0.0)

    def close(self) -> None:
        """Release the file."""
        self._film.release()


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts frame9 before frame10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name)]


class FolderSource:
    """The images of a folder, one per call, in natural order of their names."""

    def __init__(self, folder: Path, loop: bool):
        self._files = sorted((f for f in folder.iterdir() if f.suffix.lower() in IMAGES), key=natural)
        self._loop, self._next = loop, 0
        if not self._files:
            raise ValueError(f"source: {folder} holds no images ({', '.join(IMAGES)})")

    def read(self) -> Frame | None:
        """The next image."""
        if self._next == len(self._files):
            if not self._loop:
                return None
            self._next = 0
        file = self._files[self._next]
        self._next += 1
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise ValueError(f"{file}: not an image that can be read")
        return Frame(image, 0.0)

    def close(self) -> None:
        """Nothing to release."""


class DeviceSource:
    """The newest frame of a video device. A thread empties its queue, which would make every frame late."""

    def __init__(self, capture: Any, name: str):
        self._capture, self._name = capture, name
        self._newest: tuple[np.ndarray, float] | None = None
        self._stop = threading.Event()
        self._fresh = threading.Condition()
        self._lost = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            there, image = self._capture.read()
            with self._fresh:
                if there:
                    self._newest = (image, time.monotonic())
                else:
                    self._lost = True
                self._fresh.notify_all()
            if not there:
                return

    def read(self) -> Frame:
        """A frame that was not read before; waits for one. OSError: the device sends none any more."""
        with self._fresh:
            self._fresh.wait_for(lambda: self._newest is not None or self._lost, timeout=SILENCE_S)
            newest, self._newest = self._newest, None
        if newest is None:
            how = "was unplugged or reset" if self._lost else f"sent nothing for {SILENCE_S:g} s"
            raise OSError(f"video device {self._name} {how}; check cable and power, then start the node again")
        image, taken_s = newest
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), time.monotonic() - taken_s)

    def close(self) -> None:
        """Release the device."""
        self._stop.set()
        self._thread.join(timeout=SILENCE_S)
        if not self._thread.is_alive():  # a device that hangs in read must not be taken from under it: exit frees it
            self._capture.release()


class View:
    """Frames as the rig's camera sees them."""

    def __init__(
        self, intrinsics: np.ndarray, width: int, height: int, lens: Lens | None, lens_from_camera: np.ndarray
    ):
        """intrinsics: (3, 3) px. lens None: frames are this camera's already, in another size. Rest as `lookup`."""
        self.intrinsics, self.width, self.height = intrinsics, width, height
        self._lens, self._lens_from_camera = lens, lens_from_camera
        self._tables: dict[tuple[int, int], np.ndarray] = {}
        self.unseen = 0.0  # share of the picture that the lens does not show

    def show(self, frame: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 RGB of a frame (H, W, 3). ValueError: a frame of another aspect ratio."""
        height, width = frame.shape[:2]
        if self._lens is None:
            if abs(width * self.height / (height * self.width) - 1) > ASPECT_TOLERANCE:
                raise ValueError(
                    f"frames are {width}x{height}, the camera is {self.width}x{self.height}: not the same picture; "
                    "give a calibration, or crop the frames"
                )
            return cv2.resize(frame, (self.width, self.height), interpolation=cv2.INTER_AREA)
        if (width, height) not in self._tables:
            lens = self._lens.resized(width, height)
            samples = samples_per_pixel(lens, self.intrinsics)
            table = lookup(lens, self.intrinsics, self.width, self.height, samples, self._lens_from_camera)
            self._tables = {(width, height): table}
            self.unseen = float((table[..., 0] < -1).mean())
        return redraw(frame, self._tables[width, height], self.width, self.height)


def grid_stamp_ns(taken_ns: int, period_ns: int, last_ns: int) -> int:
    """The whole multiple of the period nearest to the time of a frame, but after the last stamp.

    Cameras in processes of their own, and a vehicle's odometry, thus share stamps without talking to each other.
    """
    return max((taken_ns + period_ns // 2) // period_ns * period_ns, (last_ns // period_ns + 1) * period_ns)
