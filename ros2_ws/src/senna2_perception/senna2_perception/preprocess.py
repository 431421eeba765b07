"""From what sensors say to what the network eats. The one preprocessor: training and driving both call it."""

import cv2
import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.objects import EgoState, Navigation
from senna2_perception.config import PerceptionConfig

EGO_FEATURES = 2
NAVIGATION_FEATURES = len(DirectionAction) + 3


def stack_images(config: PerceptionConfig, images: dict[str, np.ndarray]) -> np.ndarray:
    """Check the cameras and reduce them to the input size.

    Args:
        images: per camera name (H, W, 3) uint8 RGB; further cameras are ignored.
    Returns:
        (V, input_height, input_width, 3) uint8 in the order of `config.cameras`.
    Raises:
        ValueError: a camera is missing or has the wrong size or type.
    """
    stacked = []
    for name, width, height in zip(config.cameras, config.camera_widths, config.camera_heights, strict=True):
        image = images.get(name)
        if image is None:
            raise ValueError(f"camera {name}: no image; got {sorted(images)}, this checkpoint needs {config.cameras}")
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"camera {name}: got {image.dtype} {image.shape}, this checkpoint needs uint8 ({height}, {width}, 3); "
                "set the camera to that size"
            )
        size = (config.input_width, config.input_height)
        stacked.append(image if (width, height) == size else cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return np.stack(stacked)


def ego_features(ego: EgoState) -> np.ndarray:
    """(2,) float32: speed in units of 15 m/s, and 1 for "known" (training zeroes both now and then).

    Acceleration and yaw rate are left out on purpose: they tell what the expert is about to do, and a network
    that may copy them stops looking at the road.
    """
    features = np.array([ego.speed_mps / 15.0, 1.0], dtype=np.float32)
    if not np.isfinite(features).all():
        raise ValueError(f"ego state at {ego.stamp_ns} ns: speed is {ego.speed_mps}, wanted a finite number in m/s")
    return features


def navigation_features(navigation: Navigation) -> np.ndarray:
    """(8,) float32: one-hot command, target point in units of 40 m, speed limit in units of 15 m/s. Not the text."""
    one_hot = np.eye(len(DirectionAction))[navigation.command]
    numbers = np.append(navigation.target_point / 40.0, navigation.speed_limit_mps / 15.0)
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"navigation: target point {navigation.target_point} m, speed limit {navigation.speed_limit_mps} m/s; "
            "wanted finite numbers"
        )
    return np.concatenate([one_hot, numbers]).astype(np.float32)


def status_tokens(ego: EgoState, navigation: Navigation, size: int) -> np.ndarray:
    """(2, size) float32: `navigation_features` and `ego_features`, padded with zeros: all that a blind planner sees."""
    tokens = np.zeros((2, size), dtype=np.float32)
    for token, features in zip(tokens, (navigation_features(navigation), ego_features(ego)), strict=True):
        token[: len(features)] = features
    return tokens
