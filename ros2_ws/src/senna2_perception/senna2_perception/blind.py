"""No perception: the baseline that shows how much of a score needs no eyes (AD-MLP, arXiv:2305.10430)."""

import numpy as np

from senna2_core.objects import EgoState, MapElements, Navigation, Objects
from senna2_perception.perception import PerceptionOutput
from senna2_perception.preprocess import status_tokens


class BlindPerception:
    """Stands where `Perception` does and looks at nothing."""

    def __init__(self, size: int):
        self._size = size  # of the tokens that the planner was trained with

    def reset(self) -> None:
        """It remembers nothing."""

    def perceive(self, images: dict[str, np.ndarray], ego: EgoState, navigation: Navigation) -> PerceptionOutput:
        """Tokens (2, D) of speed and navigation; no objects, no map."""
        return PerceptionOutput(status_tokens(ego, navigation, self._size), Objects.empty(), MapElements.empty())
