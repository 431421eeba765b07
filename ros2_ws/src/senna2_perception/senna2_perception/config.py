"""Shape of the perception network and of its inputs. Travels in the checkpoint; the only place a default is written."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PerceptionConfig:
    """Small preset: four cameras at 160x90 (front reduced from 320x180), 49 scene tokens."""

    cameras: tuple[str, ...] = ("front", "left", "right", "rear")
    camera_widths: tuple[int, ...] = (320, 160, 160, 160)  # expected on input, px
    camera_heights: tuple[int, ...] = (180, 90, 90, 90)  # expected on input, px
    input_width: int = 160  # what the network sees, px
    input_height: int = 90  # px
    pixel_mean: float = 114.0  # of the training images, 0..255
    pixel_std: float = 58.0

    backbone: Literal["small", "resnet50"] = "small"
    channels: int = 16  # of the small backbone's first stage; doubled at each of the next three
    size: int = 128  # D, of a token
    heads: int = 4
    layers: int = 3  # the first sees one frame, the others see the memory too
    agent_queries: int = 16
    map_queries: int = 24
    scene_queries: int = 6  # free queries, supervised by the plan alone
    map_points: int = 10  # per map element
    route_stations_m: tuple[float, ...] = tuple(5.0 * k for k in range(1, 13))  # ahead, where the route is asked for
    range_front_m: float = 60.0  # boxes and polylines are learned inside this window of base_link
    range_rear_m: float = 20.0
    range_side_m: float = 30.0

    memory_lags_s: tuple[float, ...] = (0.5, 1.0)  # ages of the remembered frames
    memory_slack_s: float = 0.15  # a frame may be this much older than its lag
    max_gap_s: float = 0.5  # a longer pause between stamps, or a step back, clears the memory
    min_score: float = 0.4  # objects and map elements below are not reported

    def __post_init__(self) -> None:
        if not len(self.cameras) == len(self.camera_widths) == len(self.camera_heights) > 0:
            raise ValueError(
                f"PerceptionConfig: got {len(self.cameras)} cameras, {len(self.camera_widths)} widths and "
                f"{len(self.camera_heights)} heights, wanted one width and height per camera"
            )
        if self.size % self.heads or self.channels % 8:
            raise ValueError(
                f"PerceptionConfig: got size {self.size}, heads {self.heads}, channels {self.channels}; "
                "wanted size divisible by heads and channels by 8"
            )
        if self.layers < 2 or any(lag <= 0 for lag in self.memory_lags_s):
            raise ValueError(
                f"PerceptionConfig: need layers >= 2 and lags > 0, got {self.layers}, {self.memory_lags_s}"
            )

    @property
    def stride(self) -> int:
        """Pixels per image token."""
        return 16 if self.backbone == "small" else 32

    @property
    def tokens(self) -> int:
        """N, scene tokens handed to the planner: agents, map, free, navigation, ego, leader."""
        return self.agent_queries + self.map_queries + self.scene_queries + 3


FULL_PERCEPTION = PerceptionConfig(
    cameras=("front", "front_left", "front_right", "back", "back_left", "back_right"),
    camera_widths=(400,) * 6,
    camera_heights=(225,) * 6,
    input_width=400,
    input_height=225,
    backbone="resnet50",
    size=256,
    heads=8,
    layers=6,
    agent_queries=100,
    map_queries=100,
    scene_queries=16,
    map_points=20,
    memory_lags_s=(0.5, 1.0, 1.5),
)
"""The full-scale preset: the six cameras of the rig nuscenes, a ResNet-50. Its sizes are ours, the paper gives none."""
