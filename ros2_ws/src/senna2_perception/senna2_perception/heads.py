"""Perception heads: boxes and polylines out of queries, and their losses (sets matched one to one).

B batch, Q queries, A true agents, M true map elements, P points. Frame: base_link; m, rad, m/s.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from senna2_core.objects import Category, MapElements, MapKind, Objects
from senna2_perception.config import PerceptionConfig
from senna2_perception.cues import CueHeads, Cues, CueTargets

BOX_SCALE = (10.0, 10.0, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0)  # x, y, log l, log w, sin, cos, vx, vy: makes errors comparable
NONE_WEIGHT = 0.2  # of the "nothing here" class: most queries are idle
POINT_SCALE_M = 10.0


@dataclass
class Targets:
    """What is really there, padded to common lengths."""

    categories: Tensor  # (B, A) int64 Category, -1 pads
    boxes: Tensor  # (B, A, 7) float32: x, y, yaw, length, width, vx, vy
    kinds: Tensor  # (B, M) int64 MapKind, -1 pads
    points: Tensor  # (B, M, P, 2) float32
    cues: CueTargets


@dataclass
class Detections:
    """Raw output of the heads."""

    agent_logits: Tensor  # (B, Q, len(Category) + 1), the last is "none"
    agent_boxes: Tensor  # (B, Q, 8): x, y, log length, log width, sin, cos of yaw, vx, vy
    map_logits: Tensor  # (B, Q, len(MapKind) + 1), the last is "none"
    map_points: Tensor  # (B, Q, P, 2)
    cues: Cues


def _mlp(size: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, outputs))


class Heads(nn.Module):
    """Queries -> Detections, and the loss against Targets."""

    def __init__(self, config: PerceptionConfig):
        super().__init__()
        self.config = config
        low = torch.tensor([-config.range_rear_m, -config.range_side_m])
        high = torch.tensor([config.range_front_m, config.range_side_m])
        self.agent_anchors = nn.Parameter(low + (high - low) * torch.rand(config.agent_queries, 2))
        starts = low + (high - low) * torch.rand(config.map_queries, 1, 2)
        ends = low + (high - low) * torch.rand(config.map_queries, 1, 2)
        along = torch.linspace(0, 1, config.map_points)[:, None]
        self.map_anchors = nn.Parameter(starts + (ends - starts) * along)
        self.agent_class = nn.Linear(config.size, len(Category) + 1)
        self.agent_box = _mlp(config.size, 8)
        self.map_class = nn.Linear(config.size, len(MapKind) + 1)
        self.map_point = _mlp(config.size, config.map_points * 2)
        self.cues = CueHeads(config)
        self.register_buffer("box_scale", torch.tensor(BOX_SCALE), persistent=False)

    def forward(self, agents: Tensor, elements: Tensor, images: Tensor, navigation: Tensor, ego: Tensor) -> Detections:
        """Agent queries (B, Q, D), map queries (B, Q', D), image tokens (B, I, D), navigation and ego token (B, D)."""
        boxes = self.agent_box(agents) * self.box_scale
        boxes = torch.cat([boxes[..., :2] + self.agent_anchors, boxes[..., 2:]], dim=-1)
        offsets = self.map_point(elements).unflatten(-1, (self.config.map_points, 2)) * POINT_SCALE_M
        cues = self.cues(images, navigation, ego)
        return Detections(self.agent_class(agents), boxes, self.map_class(elements), self.map_anchors + offsets, cues)

    def loss(self, found: Detections, truth: Targets) -> dict[str, Tensor]:
        """Scalar losses by name: agent_class, agent_box, map_class, map_points, and those of the cues."""
        true_boxes = torch.cat(
            [
                truth.boxes[..., :2],
                truth.boxes[..., 3:5].clamp(min=0.1).log(),
                truth.boxes[..., 2:3].sin(),
                truth.boxes[..., 2:3].cos(),
                truth.boxes[..., 5:],
            ],
            dim=-1,
        )
        box_error = (found.agent_boxes[:, :, None] - true_boxes[:, None]).abs() / self.box_scale  # (B, Q, A, 8)
        box_cost = box_error.sum(-1)
        forward = (found.map_points[:, :, None] - truth.points[:, None]).abs().sum(-1).mean(-1)
        backward = (found.map_points[:, :, None] - truth.points.flip(2)[:, None]).abs().sum(-1).mean(-1)
        point_cost = torch.minimum(forward, backward) / POINT_SCALE_M  # (B, Q, M); a polyline has no first end
        agent_class, agent_box = _set_loss(found.agent_logits, box_cost, truth.categories)
        map_class, map_points = _set_loss(found.map_logits, point_cost, truth.kinds)
        losses = {"agent_class": agent_class, "agent_box": agent_box, "map_class": map_class, "map_points": map_points}
        return losses | self.cues.loss(found.cues, truth.cues)


def _set_loss(logits: Tensor, cost: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Match queries and truths one to one at the least total cost, then score the pairs (DETR, arXiv:2005.12872).

    Args:
        logits: (B, Q, C), class C - 1 is "none".
        cost: (B, Q, A), geometric error of every pair, differentiable.
        classes: (B, A), true classes, -1 pads.
    Returns:
        classification loss, mean geometric error of the matched pairs.
    """
    none = logits.shape[-1] - 1
    wanted = torch.full(logits.shape[:2], none, device=logits.device)
    probability = logits.softmax(-1).gather(2, classes.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1))
    matching = (cost - 2 * probability).detach().float().cpu().numpy()
    rows, queries, truths = [], [], []
    for row, real in enumerate((classes >= 0).cpu().numpy()):
        columns = np.flatnonzero(real)
        picked, column = linear_sum_assignment(matching[row][:, columns])
        rows.append(np.full(len(picked), row))
        queries.append(picked)
        truths.append(columns[column])
    index = [torch.as_tensor(np.concatenate(part), device=logits.device) for part in (rows, queries, truths)]
    wanted[index[0], index[1]] = classes[index[0], index[2]]
    weight = torch.ones(none + 1, device=logits.device)
    weight[none] = NONE_WEIGHT
    class_loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight=weight)
    return class_loss, cost[tuple(index)].sum() / max(len(index[0]), 1)


def to_objects(found: Detections, min_score: float) -> Objects:
    """Detections of one sample (B = 1) as Objects in base_link, best first; ids are -1 (no tracking here)."""
    probability, boxes = (
        found.agent_logits[0].softmax(-1).cpu().numpy(),
        found.agent_boxes[0].cpu().numpy().astype(np.float64),
    )
    scores, categories = probability[:, :-1].max(1), probability[:, :-1].argmax(1)
    keep = np.argsort(-scores, kind="stable")
    keep = keep[scores[keep] >= min_score]
    b = boxes[keep]
    poses = np.stack([b[:, 0], b[:, 1], np.arctan2(b[:, 4], b[:, 5])], axis=1)
    sizes = np.exp(b[:, 2:4])
    return Objects(
        np.full(len(keep), -1), categories[keep], np.concatenate([poses, sizes], axis=1), b[:, 6:8], scores[keep]
    )


def to_map_elements(found: Detections, min_score: float) -> MapElements:
    """Detections of one sample (B = 1) as MapElements in base_link."""
    probability = found.map_logits[0].softmax(-1).cpu().numpy()
    scores, kinds = probability[:, :-1].max(1), probability[:, :-1].argmax(1)
    keep = np.flatnonzero(scores >= min_score)
    return MapElements(kinds[keep], tuple(found.map_points[0].cpu().numpy()[keep]), scores[keep])
