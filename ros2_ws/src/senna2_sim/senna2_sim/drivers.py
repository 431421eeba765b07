"""Drivers that need no learning: what a plan may be compared with. Plans: (40, 3) x m, y m, yaw rad in base_link."""

import numpy as np

from senna2_sim.world.world import World


def constant_velocity(world: World) -> np.ndarray:
    """Straight on at the present speed."""
    distance = world.ego.speed_mps * 0.1 * np.arange(1, 41)
    return np.column_stack([distance, np.zeros((40, 2))])


def expert(world: World) -> np.ndarray:
    """The privileged driver."""
    return world.expert_plan


DRIVERS = {"expert": expert, "constant_velocity": constant_velocity}
