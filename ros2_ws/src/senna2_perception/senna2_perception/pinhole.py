"""What a real lens saw, redrawn as one of our ideal pinhole cameras sees it.

Pixel centres of our cameras lie at +0.5 (as in `camera_info` of a recorded bag); those of a lens at whole numbers, as
OpenCV and ROS calibrate. Optical frames: x right, y down, z forward.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import yaml

Model = Literal["plumb_bob", "rational_polynomial", "equidistant"]
COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
UNSEEN = -1e4  # a pixel outside of every image
ASPECT_TOLERANCE = 0.01
MOST_SAMPLES = 8  # per pixel and axis
_CRITERIA = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-6)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lens:
    """A calibrated camera."""

    width: int  # px, of the frames that it was calibrated with
    height: int
    matrix: np.ndarray  # (3, 3) px, pixel centres at whole numbers
    model: Model = "plumb_bob"
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(5))  # as many as the model has

    def __post_init__(self) -> None:
        if self.model not in COEFFICIENTS:
            raise ValueError(f"distortion model: got {self.model!r}, wanted one of {get_args(Model)}")
        matrix, distortion = np.asarray(self.matrix, np.float64), np.asarray(self.distortion, np.float64)
        if matrix.shape != (3, 3) or not (np.diag(matrix)[:2] > 0).all() or not np.isfinite(matrix).all():
            raise ValueError(f"camera matrix: got {matrix.tolist()}, wanted (3, 3) with focal lengths > 0 px")
        if distortion.shape not in {(n,) for n in COEFFICIENTS[self.model]} or not np.isfinite(distortion).all():
            wanted = " or ".join(map(str, COEFFICIENTS[self.model]))
            raise ValueError(f"distortion: got {distortion.tolist()}, {self.model} has {wanted} finite coefficients")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"lens: got frames of {self.width}x{self.height}, wanted at least one pixel")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "distortion", distortion)

    def resized(self, width: int, height: int) -> "Lens":
        """The same lens with frames of another size. ValueError: another aspect ratio (that would be a crop)."""
        if abs(width * self.height / (height * self.width) - 1) > ASPECT_TOLERANCE:
            raise ValueError(
                f"frames are {width}x{height}, the calibration is for {self.width}x{self.height}: not the same "
                "picture; set the camera to that mode or calibrate in this one"
            )
        scale = np.array([width / self.width, height / self.height])
        matrix = self.matrix.copy()
        matrix[:2, :2] *= scale[:, None]
        matrix[:2, 2] = (self.matrix[:2, 2] + 0.5) * scale - 0.5
        return replace(self, width=width, height=height, matrix=matrix)

    def project(self, rays: np.ndarray) -> np.ndarray:
        """Where rays (N, 3) of the optical frame hit: (N, 2) px, `UNSEEN` outside of the picture."""
        hits = np.full((len(rays), 2), UNSEEN)
        ahead = np.flatnonzero(rays[:, 2] > 1e-6)
        flat = rays[ahead, :2] / rays[ahead, 2:]
        pixels = self._distort(flat)
        inside = (pixels > -0.5).all(axis=1) & (pixels < np.array([self.width, self.height]) - 0.5).all(axis=1)
        ahead, flat, pixels = ahead[inside], flat[inside], pixels[inside]
        # Distortion polynomials fold far outside of the picture back into it; the way back tells these rays apart.
        unfolded = np.linalg.norm(self._undistort(pixels) - flat, axis=1) < 1e-2 * (1 + (flat**2).sum(axis=1))
        hits[ahead[unfolded]] = pixels[unfolded]
        return hits

    def _distort(self, flat: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of directions (N, 2): x / z, y / z."""
        rays, zero = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)[:, None], np.zeros(3)
        if not len(rays):
            return np.zeros((0, 2))
        project = cv2.fisheye.projectPoints if self.model == "equidistant" else cv2.projectPoints
        pixels: np.ndarray = project(rays, zero, zero, self.matrix, self.distortion)[0][:, 0]
        return pixels

    def _undistort(self, pixels: np.ndarray) -> np.ndarray:
        """Inverse of `_distort` where that has one."""
        if not len(pixels):
            return np.zeros((0, 2))
        undo = cv2.fisheye.undistortPoints if self.model == "equidistant" else cv2.undistortPoints
        flat: np.ndarray = undo(pixels[:, None], self.matrix, self.distortion, criteria=_CRITERIA)[:, 0]
        return flat


def pinhole_matrix(width: int, height: int, fov_deg: float) -> np.ndarray:
    """(3, 3) px of one of our cameras with square pixels and this horizontal field of view."""
    focal = width / 2 / np.tan(np.deg2rad(fov_deg) / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def turn(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """(3, 3): directions in the optical frame of a camera that is turned, in the frame of the unturned one.

    Left, nose down and right side down are positive, as in a rig; turned in that order.
    """
    yaw, pitch, roll = np.deg2rad([-yaw_deg, -pitch_deg, roll_deg])  # left is about -y, nose down about -x, lean z
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    turned: np.ndarray = about_y @ about_x @ about_z
    return turned


def samples_per_pixel(lens: Lens, intrinsics: np.ndarray) -> int:
    """How many rays per axis a pixel of the pinhole camera needs, so that nothing aliases."""
    return int(np.clip(np.ceil(lens.matrix[0, 0] / intrinsics[0, 0] - 0.1), 1, MOST_SAMPLES))


def lookup(
    lens: Lens, intrinsics: np.ndarray, width: int, height: int, samples: int, lens_from_camera: np.ndarray
) -> np.ndarray:
    """Where the lens sees what the pinhole camera sees.

    Args:
        intrinsics: (3, 3) px of the pinhole camera, pixel centres at +0.5.
        samples: rays per pixel and axis.
        lens_from_camera: (3, 3) turns directions of the pinhole camera's optical frame into the lens's.
    Returns:
        (samples * height, samples * width, 2) float32 px in the lens's frames, `UNSEEN` where it does not look.
    """
    u, v = ((np.arange(samples * size) + 0.5) / samples for size in (width, height))
    x = np.broadcast_to((u - intrinsics[0, 2]) / intrinsics[0, 0], (len(v), len(u)))
    y = np.broadcast_to(((v - intrinsics[1, 2]) / intrinsics[1, 1])[:, None], x.shape)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ np.asarray(lens_from_camera).T
    return lens.project(rays).reshape(*x.shape, 2).astype(np.float32)


def redraw(frame: np.ndarray, table: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 of a lens's frame (H, W, 3) uint8, with a table of `lookup`; black where unseen."""
    border = cv2.BORDER_REPLICATE
    fine = cv2.remap(frame, table, None, cv2.INTER_LINEAR, borderMode=border)  # type: ignore[call-overload]
    fine[table[..., 0] == UNSEEN] = 0
    return (
        fine if fine.shape[:2] == (height, width) else cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    )


_MODELS = {"fisheye": "equidistant", "radtan": "plumb_bob", "": "plumb_bob"}  # other names for the same


def read_calibration(path: str | Path) -> Lens:
    """The lens of a YAML file as ROS's camera_calibration writes it.

    Raises:
        ValueError: no such file, a field is missing or does not fit.
    """
    path = Path(path)
    wanted = "image_width, image_height, camera_matrix, distortion_model, distortion_coefficients"
    try:
        data: Any = yaml.safe_load(path.read_text())
        model = str(data["distortion_model"])
        return Lens(
            width=int(data["image_width"]),
            height=int(data["image_height"]),
            matrix=np.reshape(np.array(data["camera_matrix"]["data"], np.float64), (3, 3)),
            model=_MODELS.get(model, model),  # type: ignore[arg-type]  # checked there
            distortion=np.array(data["distortion_coefficients"]["data"], np.float64).ravel(),
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"calibration {path}: {error}; wanted a YAML file as camera_calibration writes it") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"calibration {path}: no field {error}; wanted {wanted}") from error
    except ValueError as error:
        raise ValueError(f"calibration {path}: {error}") from error
