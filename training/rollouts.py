"""One clip driven in closed loop by the learned stack: what stage 3 trains on (Senna-2 3.2.3, A.1.3). T steps at 10 Hz.

A drive is kept as a bag, as the demonstrations are, so that a failure can be replayed and looked at; its plans are
the policy's own.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from senna2_core.bags import BagWriter
from senna2_core.objects import EgoState, Navigation
from senna2_sim.env import SimEnv
from senna2_sim.rig import Rig
from senna2_sim.world.types import Clip
from senna2_sim.world.world import World
from training.alignment import Rollout
from training.data import DT_S
from training.driver import Driver, through_jpeg
from training.record import Recorder, ground_truth

CAMERA = "front"


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What the VLM was asked at one step."""

    image: np.ndarray  # as `DecisionModel.decide` takes it
    navigation: Navigation
    speed_mps: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """One drive: how it went, and what the networks were given at each of the T steps at which a plan was made."""

    clip: str
    rollout: Rollout  # (T,) each: for `alignment.marks`
    tokens: np.ndarray  # (T, n, D) float32 scene tokens
    plans: np.ndarray  # (T, 40, 3) that were driven, base_link
    asked: np.ndarray  # (T,) step at which the decision behind each plan was asked for
    decided: np.ndarray  # (T,) `Decision.index` of that decision
    questions: dict[int, Question]  # by step, one for each value in `asked`
    collided: bool  # the drive ended so, after its last step
    at_fault: bool


def demonstration(clip: Clip, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Speed (steps,) m/s and progress (steps,) m of the expert, alone in the clip from its start.

    After the clip's end it goes on as fast as it was last.
    """
    world = World(clip, seed=clip.seed)
    speed, progress = [world.ego.speed_mps], [world.progress_m]
    while not world.done and len(speed) < steps:
        world.step(world.expert_plan)
        speed.append(world.ego.speed_mps)
        progress.append(world.progress_m)
    beyond = np.arange(1, steps - len(speed) + 1)
    ahead = progress[-1] + 0.1 * speed[-1] * beyond
    return np.array(speed + [speed[-1]] * len(beyond)), np.concatenate([progress, ahead])


def roll_out(driver: Driver, env: SimEnv, bag: Path | None = None, rig: Rig | None = None) -> Episode:
    """Drive the clip that env has loaded, from its start to its end.

    Args:
        driver: with a VLM. It sees images as in the graph: compressed and decoded again.
        env: renders images.
        bag: folder that the drive is kept in; None: nowhere.
        rig: cameras of env; for the bag.
    Raises:
        ValueError: a driver without VLM; a bag is wanted but no rig was given; the bag's folder exists.
    """
    if bag is not None and rig is None:
        raise ValueError(f"rollout: bag {bag} is to be written, but no rig was given; give the one that env renders")
    observation, _ = env.reset()
    driver.reset()
    world = env.world
    egos: list[EgoState] = []
    navigations: list[Navigation] = []
    fronts, tokens, plans, stamps, decided, states = [], [], [], [], [], []
    with ExitStack() as stack:
        recorder = None
        if bag is not None and rig is not None:
            recorder = Recorder(stack.enter_context(BagWriter(bag)), rig)
            recorder.map(world.stamp_ns, world.map_elements())
        while not world.done:
            images = through_jpeg(observation["images"])
            ego, navigation = world.ego, world.navigation()
            out = driver.drive(images, ego, navigation)
            if out.condition is None:
                raise ValueError("rollout: got a driver without decisions, wanted one with VLM and adapter")
            if recorder is not None:
                now = (ego, navigation, ground_truth(world))
                recorder.step(*now, observation["images"], out.trajectory, world.signals)
            egos.append(ego)
            navigations.append(navigation)
            fronts.append(images[CAMERA])
            tokens.append(out.perception.tokens)
            plans.append(out.trajectory)
            stamps.append(out.condition.stamp_ns)
            decided.append(out.condition.decision.index)
            states.append((world.ttc_s, world.progress_m, world.speed_limit_mps, world.collided))
            observation, *_ = env.step(out.trajectory)
    ttc, progress, limit, collided = (np.array(column) for column in zip(*states, strict=True))
    expert_speed, expert_progress = demonstration(env.clip, len(egos))
    lag_s = driver.vlm.parts.frame_lag_s if driver.vlm is not None else 0.0
    asked = np.searchsorted([ego.stamp_ns for ego in egos], stamps)
    return Episode(
        clip=env.clip.id,
        rollout=Rollout(
            ttc_s=ttc, collided=collided, speed_mps=np.array([ego.speed_mps for ego in egos]), progress_m=progress,
            expert_speed_mps=expert_speed, expert_progress_m=expert_progress, speed_limit_mps=limit,
        ),
        tokens=np.stack(tokens),
        plans=np.stack(plans),
        asked=asked,
        decided=np.array(decided),
        questions={
            step: Question(
                image=front(fronts, step, lag_s), navigation=navigations[step], speed_mps=egos[step].speed_mps
            )
            for step in sorted(set(asked.tolist()))
        },
        collided=world.collided,
        at_fault=world.at_fault,
    )  # fmt: skip


def front(fronts: Sequence[np.ndarray], step: int, lag_s: float) -> np.ndarray:
    """What the VLM saw at a step, of the front camera's frames so far: with a lag, the frame before, too."""
    lag = round(lag_s / DT_S)
    return np.stack([fronts[step - lag], fronts[step]]) if 0 < lag <= step else fronts[step]
