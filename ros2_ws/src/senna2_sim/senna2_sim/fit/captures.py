"""Read photographs and their poses from a folder with a `transforms.json`, as nerfstudio and instant-ngp write it.

Fields that are read; a camera field may stand at the top or in a frame, where it wins:
  fl_x, fl_y px (or camera_angle_x rad; fl_y defaults to fl_x), cx, cy px (default: centre), w, h px (default: as it is)
  camera_model    PINHOLE, SIMPLE_PINHOLE, SIMPLE_RADIAL, RADIAL or OPENCV (default)
  k1, k2, p1, p2, k3   lens distortion as OpenCV defines it; the images are undistorted while they are read
  ply_file_path   initial points, relative to the folder
  frames[].file_path         image, relative to the folder; without an ending: .png
  frames[].transform_matrix  4x4 world from camera, OpenGL axes (x right, y up, z backward), any world frame
  frames[].mask_path         image, black where the photograph is to be ignored
  frames[].boxes             [[left, top, right, bottom], ...] px of the photograph, ignored (ours)
  frames[].boxes_3d          [{"pose": 4x4 world from box, "size": [x, y, z]}, ...] moving objects, ignored (ours)
Others are left alone. A transparent image is laid over black.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CAMERA_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
SMALLEST = 11  # px, the window of SSIM


@dataclass(frozen=True)
class Captures:
    """M photographs, sorted by name, in the world frame of the file.

    Args:
        names: file_path of each.
        images: RGB uint8, (H, W, 3) each.
        masks: True where the image counts, (H, W) bool each.
        viewmats: camera from world, OpenCV axes, (M, 4, 4) float64.
        intrinsics: pinhole, px, (M, 3, 3) float64.
        points_file: initial points that the file names.
    """

    names: list[str]
    images: list[np.ndarray]
    masks: list[np.ndarray]
    viewmats: np.ndarray
    intrinsics: np.ndarray
    points_file: Path | None

    @property
    def centres(self) -> np.ndarray:
        """Camera centres in the world, (M, 3)."""
        return np.linalg.inv(self.viewmats)[:, :3, 3]

    @property
    def radius(self) -> float:
        """The scene's length unit, as in 3DGS: 1.1 times the farthest camera's distance from their mean; 1 if 0."""
        centres = self.centres
        radius = 1.1 * float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())
        return radius if radius > 1e-6 else 1.0


def read_captures(folder: Path, downscale: int = 1) -> Captures:
    """Read `folder/transforms.json` and everything it names, images made smaller by `downscale`.

    Raises:
        ValueError: file, frame, what was found and what is wanted.
    """
    top, frames, views = read_poses(folder)
    file = folder / "transforms.json"
    if len(frames) < 2:
        raise ValueError(f"{file}: {len(frames)} frames, wanted at least 2 (every 8th is held out)")
    images, masks, intrinsics = [], [], []
    for frame, view in zip(frames, views, strict=True):
        subject = f"{file}: frame {frame['file_path']}"
        try:
            image, mask, lens = _photograph(folder, subject, {**top, **frame}, view)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{subject}: a field is missing or no number: {error!r}; see fit/captures.py") from error
        if downscale > 1:
            height, width = image.shape[0] // downscale, image.shape[1] // downscale
            lens[:2] *= np.array([[width / image.shape[1]], [height / image.shape[0]]])
            size = (max(width, 1), max(height, 1))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
        if min(image.shape[:2]) < SMALLEST:
            raise ValueError(f"{file}: frame {frame['file_path']} is {image.shape[1]}x{image.shape[0]} px, "
                             f"wanted at least {SMALLEST} each way; downscale less")  # fmt: skip
        images.append(image)
        masks.append(mask)
        intrinsics.append(lens)
    points = folder / top["ply_file_path"] if "ply_file_path" in top else None
    return Captures([x["file_path"] for x in frames], images, masks, views, np.stack(intrinsics), points)


def read_poses(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
    """`folder/transforms.json` without its images.

    Returns:
        the file's fields, its frames sorted by name, camera from world with OpenCV axes (M, 4, 4) float64.
    Raises:
        ValueError: as in `read_captures`.
    """
    file = folder / "transforms.json"
    if not file.is_file():
        raise ValueError(f"{folder}: no transforms.json; write one with nerfstudio's ns-process-data or colmap2nerf.py")
    try:
        top = json.loads(file.read_text())
        frames = sorted(top["frames"], key=lambda frame: frame["file_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: wanted an object with frames[].file_path, got {error!r}") from error
    views = [_viewmat(f"{file}: frame {x['file_path']}", x) for x in frames]
    return top, frames, np.array(views).reshape(-1, 4, 4)


def read_points(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) and colours 0..1 (P, 3), grey when there are none, float32.

    Args:
        file: PLY or OBJ with float x, y, z (and uchar red, green, blue), or NPY (P, 3) or (P, 6) with colours 0..1.
    Raises:
        ValueError: unreadable, no points, values not finite or colours out of range.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file of points; correct ply_file_path or --points")
    if file.suffix == ".npy":
        table = np.load(file, allow_pickle=False)
        if table.ndim != 2 or table.shape[1] not in (3, 6):
            raise ValueError(f"{file}: array of shape {table.shape}, wanted (P, 3) or (P, 6)")
        points, colours = table[:, :3], table[:, 3:]
    else:
        vertices, _, rgb = cv2.loadPointCloud(str(file))
        if vertices is None:
            raise ValueError(f"{file}: not read; wanted PLY or OBJ with float x, y, z, or NPY")
        points, colours = vertices.reshape(-1, 3), np.zeros((0, 3)) if rgb is None else rgb.reshape(-1, 3)
    if not colours.size:
        colours = np.full((len(points), 3), 0.5)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(f"{file}: {len(points)} points, some not finite or none at all; wanted finite ones")
    if len(colours) != len(points) or not (colours.min() >= 0 and colours.max() <= 1):
        raise ValueError(f"{file}: {len(colours)} colours for {len(points)} points, wanted one each within 0..1")
    return points.astype(np.float32), colours.astype(np.float32)


def _viewmat(subject: str, frame: dict[str, Any]) -> np.ndarray:
    try:
        pose = np.array(frame["transform_matrix"], np.float64)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{subject}: no readable transform_matrix, wanted 4x4 numbers") from error
    if pose.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{subject}: transform_matrix has shape {pose.shape}, wanted (4, 4)")
    if not np.isfinite(pose).all():
        raise ValueError(f"{subject}: transform_matrix is not finite; leave the frame out, its pose was not found")
    turn = pose[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
        raise ValueError(f"{subject}: transform_matrix holds no rotation, wanted world from camera without scale")
    world = np.eye(4)
    world[:3] = pose[:3]
    world[:3, 1:3] *= -1
    return np.linalg.inv(world)


def _photograph(
    folder: Path, subject: str, camera: dict[str, Any], view: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 RGB, mask (H, W), intrinsics (3, 3), all without distortion."""
    model = camera.get("camera_model", "OPENCV")
    if model not in CAMERA_MODELS:
        raise ValueError(f"{subject}: camera_model {model}, wanted one of {CAMERA_MODELS}; undistort it first")
    path = folder / camera["file_path"]
    image = _read(subject, path if path.suffix else path.with_suffix(".png"))
    height, width = image.shape[:2]
    wanted = tuple(int(camera[key]) if key in camera else size for key, size in (("w", width), ("h", height)))
    if (width, height) != wanted:
        raise ValueError(f"{subject}: image is {width}x{height}, transforms.json says w, h = {wanted}; correct one")
    mask = np.ones((height, width), bool)
    if "mask_path" in camera:
        painted = _read(subject, folder / camera["mask_path"])
        if painted.shape[:2] != mask.shape:
            raise ValueError(f"{subject}: mask is {painted.shape[1]}x{painted.shape[0]}, wanted {width}x{height}")
        mask &= painted.max(axis=2) > 0
    for left, top, right, bottom in camera.get("boxes", ()):
        rows = slice(max(math.floor(top), 0), max(math.ceil(bottom), 0))
        mask[rows, max(math.floor(left), 0) : max(math.ceil(right), 0)] = False
    lens = _intrinsics(subject, camera, width, height)
    distortion = np.array([float(camera.get(name, 0)) for name in ("k1", "k2", "p1", "p2", "k3")])
    if not np.isfinite(distortion).all():
        raise ValueError(f"{subject}: k1, k2, p1, p2, k3 = {distortion}, wanted finite numbers")
    if distortion.any():
        image = cv2.undistort(image, lens, distortion)
        mask = cv2.undistort(mask.astype(np.float32), lens, distortion) > 0.999
    for box in camera.get("boxes_3d", ()):
        pose, size = (np.asarray(box[key], np.float64) for key in ("pose", "size"))
        mask &= ~_covered(pose, size, view, lens, mask.shape)
    return image, mask, lens


def _read(subject: str, path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3)."""
    if not path.is_file():
        raise ValueError(f"{subject}: {path} does not exist; paths are relative to the folder of transforms.json")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8:
        raise ValueError(f"{subject}: {path} is not read as 8-bit image; wanted PNG or JPEG")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 4:
        image = np.round(image[..., :3] * (image[..., 3:] / 255)).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _intrinsics(subject: str, camera: dict[str, Any], width: int, height: int) -> np.ndarray:
    if "fl_x" in camera:
        fx = float(camera["fl_x"])
    elif "camera_angle_x" in camera:
        fx = 0.5 * width / math.tan(0.5 * float(camera["camera_angle_x"]))
    else:
        raise ValueError(f"{subject}: neither fl_x nor camera_angle_x; wanted a focal length")
    fy = float(camera.get("fl_y", fx))
    cx, cy = float(camera.get("cx", width / 2)), float(camera.get("cy", height / 2))
    if not (math.isfinite(fx + fy + cx + cy) and fx > 0 and fy > 0):
        raise ValueError(f"{subject}: fl_x, fl_y, cx, cy = {fx}, {fy}, {cx}, {cy}; wanted finite, focal lengths > 0")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _covered(
    pose: np.ndarray, size: np.ndarray, view: np.ndarray, lens: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Pixels (H, W) whose ray meets the box before or behind whatever the photograph shows there."""
    x, y = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    rays = np.stack([(x - lens[0, 2]) / lens[0, 0], (y - lens[1, 2]) / lens[1, 1], np.ones_like(x)], axis=-1)
    box_from_camera = np.linalg.inv(view @ pose)
    rays, origin = rays @ box_from_camera[:3, :3].T, box_from_camera[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = (np.stack([-size, size])[:, None, None] / 2 - origin) / rays
    near, far = np.fmin(*sides).max(axis=-1), np.fmax(*sides).min(axis=-1)
    return (near <= far) & (far > 0)
