"""The learned stack in one process, without ROS: for closed-loop evaluation and training.

Decisions come at the times of the lockstep graph: the VLM sees the first frame of each period of stamp time, a plan
uses the decision that is due by the memory bank's rule.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from senna2_core.actions import Decision
from senna2_core.bags import blank
from senna2_core.messages import Condition, DecisionOutput, fill_jpeg, read_image
from senna2_core.objects import EgoState, Navigation
from senna2_perception.blind import BlindPerception
from senna2_perception.perception import Perception, PerceptionOutput
from senna2_planner.adapter import AdapterRunner
from senna2_planner.memory_bank import MemoryBank
from senna2_planner.planner import PlannerRunner
from senna2_vlm.decide import DecisionModel
from senna2_vlm.history import FrameHistory


@dataclass(frozen=True, kw_only=True)
class DriverConfig:
    """Timing of decisions; the nodes' defaults."""

    vlm_period_s: float = 0.5
    vlm_latency_s: float = 0.1
    camera: str = "front"


@dataclass(frozen=True, eq=False)
class DriverOutput:
    """One step of the stack."""

    trajectory: np.ndarray  # (40, 3) base_link
    perception: PerceptionOutput
    decision: DecisionOutput | None  # made at this very step, None between decisions
    condition: Condition | None  # what the plan was conditioned on


class Driver:
    """Perception, planner and, unless it drives end to end, VLM and adapter."""

    def __init__(
        self,
        perception: Perception | BlindPerception,
        planner: PlannerRunner,
        vlm: DecisionModel | None = None,
        adapter: AdapterRunner | None = None,
        config: DriverConfig = DriverConfig(),
    ):
        if (vlm is None) != (adapter is None):
            raise ValueError("driver: got only one of VLM and adapter, wanted both or none")
        self.perception, self.planner, self.vlm, self.adapter, self.config = perception, planner, vlm, adapter, config
        self.forced: Decision | None = None  # takes the place of the VLM's from its next frame on
        self._bank = MemoryBank()
        self._history: FrameHistory[np.ndarray] = FrameHistory(vlm.parts.frame_lag_s if vlm is not None else 0.0)
        self._last_period = -1

    @classmethod
    def from_checkpoints(
        cls, folder: str | Path, device: str = "cpu", *, use_vlm: bool = True, vlm: str | Path | None = None
    ) -> "Driver":
        """From FOLDER/{perception,planner} and, with the VLM, FOLDER/{vlm,adapter}; vlm names another VLM folder."""
        folder = Path(folder)
        planner = PlannerRunner.from_checkpoint(folder / "planner", device)
        blind = planner.config.blind
        parts = (
            BlindPerception(planner.config.token_size)
            if blind
            else Perception.from_checkpoint(folder / "perception", device),
            planner,
        )
        if not use_vlm:
            return cls(*parts)
        return cls(
            *parts,
            DecisionModel.from_pretrained(vlm or folder / "vlm", device),
            AdapterRunner.from_checkpoint(folder / "adapter", device),
        )

    def reset(self) -> None:
        """Before a new episode."""
        self.perception.reset()
        self._bank.clear()
        self._history.clear()
        self._last_period = -1

    def drive(self, images: dict[str, np.ndarray], ego: EgoState, navigation: Navigation) -> DriverOutput:
        """One step at ego.stamp_ns; images per camera (H, W, 3) uint8 RGB."""
        decision = self._decide(images[self.config.camera], ego, navigation)
        condition = self._bank.select(ego.stamp_ns, self.config.vlm_latency_s, self.config.vlm_period_s)
        if self.vlm is not None and condition is None:
            raise ValueError(f"driver: no decision for the plan at {ego.stamp_ns} ns; stamps must follow each other")
        seen = self.perception.perceive(images, ego, navigation)
        trajectory = self.planner.plan(seen.tokens, None if condition is None else condition.embedding, ego)
        return DriverOutput(trajectory, seen, decision, condition)

    def _decide(self, image: np.ndarray, ego: EgoState, navigation: Navigation) -> DecisionOutput | None:
        self._history.put(ego.stamp_ns, image)
        period = ego.stamp_ns // round(self.config.vlm_period_s * 1e9)
        if self.vlm is None or self.adapter is None or period == self._last_period:
            return None
        self._last_period = period
        before = self._history.before(ego.stamp_ns)
        frames = image if before is None else np.stack([before, image])
        out = self.vlm.decide(frames, navigation, ego.speed_mps, forced=self.forced, stamp_ns=ego.stamp_ns)
        self._bank.put(Condition(stamp_ns=ego.stamp_ns, decision=out.decision, embedding=self.adapter.embed(out)))
        return out


def through_jpeg(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images as the stack gets them in the graph and from bags: compressed and decoded again."""
    kind = "sensor_msgs/msg/CompressedImage"
    return {name: read_image(fill_jpeg(blank(kind), 0, name, image)) for name, image in images.items()}
