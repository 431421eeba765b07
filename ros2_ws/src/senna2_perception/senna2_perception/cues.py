"""Cues: what a plan needs most, asked for directly, so that a small network finds it in few demonstrations.

Questions beside the detection heads. To every image token: how far is the nearest road user that it shows, and how fast
does it come nearer? How far left of the route lies the ground that it shows? To the navigation token: where does the
route run? To the ego token: how far is the leader on the route, and how fast does it come nearer? Answers about the
leader become a token (`leader_token`); the others stay inside the tokens, only training reads them. B batch, I image
tokens, R route points. base_link; m, m/s.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senna2_perception.config import PerceptionConfig

ROUTE_SCALE_M = 10.0  # of what the head says
ROUTE_TOLERANCE_M, ROUTE_TOLERANCE = 2.0, 0.2  # errors count in units of 2 m + 20 % of the distance along the route
LANE_SCALE_M = 4.0
RATE_SCALE_HZ = 0.2
GAP_SCALE_M = 10.0
SPEED_SCALE_MPS = 5.0


@dataclass
class CueTargets:
    """The true answers."""

    sights: Tensor  # (B, I) distance m of the nearest road user that a token shows, inf: none
    rates: Tensor  # (B, I) growth of that distance over the distance, 1/s; negative: it comes nearer
    lanes: Tensor  # (B, I) m left of the route of the ground that a token shows, NaN: no ground, or far from the route
    route: Tensor  # (B, R, 2) route points at config.route_stations_m ahead of the ego
    leader: Tensor  # (B, 2) gap m (inf: no leader) and closing speed m/s


@dataclass
class Cues:
    """Raw answers."""

    sights: Tensor  # (B, I, 3): logit of "shows one", log distance, rate / 0.2 Hz
    lanes: Tensor  # (B, I), in units of 4 m
    route: Tensor  # (B, R, 2)
    leader: Tensor  # (B, 3): logit of "there is one", gap / 10 m, closing speed / 5 m/s


class CueHeads(nn.Module):
    """Tokens -> Cues, and the loss against CueTargets."""

    def __init__(self, config: PerceptionConfig):
        super().__init__()
        size = config.size
        stations = torch.tensor(config.route_stations_m)
        tolerance = ROUTE_TOLERANCE_M + ROUTE_TOLERANCE * stations
        self.register_buffer("tolerance", tolerance[:, None], persistent=False)
        self.register_buffer("straight", torch.stack([stations, 0 * stations], dim=1), persistent=False)
        self.sight = nn.Linear(size, 3)
        self.lane = nn.Linear(size, 1)
        self.route = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 2 * len(stations)))
        self.leader = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 3))

    def forward(self, images: Tensor, navigation: Tensor, ego: Tensor) -> Cues:
        """Image tokens (B, I, D), navigation token (B, D), ego token (B, D)."""
        route = self.straight + self.route(navigation).unflatten(1, (-1, 2)) * ROUTE_SCALE_M
        return Cues(self.sight(images), self.lane(images)[..., 0], route, self.leader(ego))

    def loss(self, found: Cues, truth: CueTargets) -> dict[str, Tensor]:
        """Scalar losses by name: sights, rates, lanes, route, leader."""
        shows = torch.isfinite(truth.sights)
        distance = torch.where(shows, truth.sights, 1.0).clamp(min=1.0).log()
        sights = F.binary_cross_entropy_with_logits(found.sights[..., 0], shows.float())
        sights = sights + _mean((found.sights[..., 1] - distance).abs(), shows)
        rates = _mean((found.sights[..., 2] - truth.rates / RATE_SCALE_HZ).abs(), shows)
        ground = torch.isfinite(truth.lanes)
        lanes = _mean((found.lanes - torch.where(ground, truth.lanes, 0.0) / LANE_SCALE_M).abs(), ground)
        route = ((found.route - truth.route).abs() / self.tolerance).sum(-1).mean()
        there = torch.isfinite(truth.leader[:, 0])
        wanted = torch.where(there[:, None], truth.leader, 0.0) / torch.tensor(
            [GAP_SCALE_M, SPEED_SCALE_MPS], device=truth.leader.device
        )
        leader = F.binary_cross_entropy_with_logits(found.leader[:, 0], there.float())
        leader = leader + _mean((found.leader[:, 1:] - wanted).abs().sum(-1), there)
        return {"sights": sights, "rates": rates, "lanes": lanes, "route": route, "leader": leader}


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the values that count; 0 when none does."""
    return (values * where).sum() / where.sum().clamp(min=1)
