"""The perception network: images, ego status and navigation -> scene tokens and detections, with a short memory.

B batch, T frames of a sequence, L remembered frames, V cameras, N scene tokens, D token size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from senna2_perception.config import PerceptionConfig
from senna2_perception.encoder import Encoder
from senna2_perception.heads import Detections, Heads
from senna2_perception.leader import leader_token
from senna2_perception.preprocess import EGO_FEATURES, NAVIGATION_FEATURES

MOTION_FEATURES = 5  # x, y (units of 10 m), sin, cos of yaw of the past base_link seen from the present one; age s


@dataclass
class Memory:
    """Query features of past frames, each from the first layer: nothing accumulates over time."""

    tokens: Tensor  # (B, L, agent_queries + scene_queries, D)
    motion: Tensor  # (B, L, 5), see `motion_features`
    valid: Tensor  # (B, L) bool


def motion_features(poses: Tensor, ages_s: Tensor) -> Tensor:
    """Past poses in the present base_link (..., 3) m, rad and their ages (...) s -> (..., 5)."""
    x, y, yaw = poses.unbind(-1)
    return torch.stack([x / 10, y / 10, yaw.sin(), yaw.cos(), ages_s], dim=-1)


class _Layer(nn.Module):
    """Queries look at each other (and the memory), then at the images, then think."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.norm_self, self.norm_image, self.norm_mlp = (nn.LayerNorm(size) for _ in range(3))
        self.self_attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.image_attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(size, 3 * size), nn.GELU(), nn.Linear(3 * size, size))

    def forward(self, queries: Tensor, images: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """queries (B, Q, D), images (B, I, D), memory (B, K, D), hidden (B, K) True where the memory is void."""
        x = self.norm_self(queries)
        keys = torch.cat([x, memory], dim=1)
        mask = torch.cat([hidden.new_zeros(x.shape[:2]), hidden], dim=1)
        queries = queries + self.self_attention(x, keys, keys, key_padding_mask=mask, need_weights=False)[0]
        queries = queries + self.image_attention(self.norm_image(queries), images, images, need_weights=False)[0]
        return queries + self.mlp(self.norm_mlp(queries))


class PerceptionNetwork(nn.Module):
    """Learned queries decode the images; the first layer sees no more, the later ones also the past and the ego."""

    def __init__(self, config: PerceptionConfig):
        super().__init__()
        self.config = config
        size = config.size
        self.encoder = Encoder(config)
        self.queries = nn.Parameter(torch.randn(config.tokens - 3, size))
        self.layers = nn.ModuleList(_Layer(size, config.heads) for _ in range(config.layers))
        self.motion = nn.Sequential(nn.Linear(MOTION_FEATURES, size), nn.SiLU(), nn.Linear(size, size))
        self.memory_norm = nn.LayerNorm(size)
        self.ego = nn.Sequential(nn.Linear(EGO_FEATURES, size), nn.SiLU(), nn.Linear(size, size))
        self.navigation = nn.Sequential(nn.Linear(NAVIGATION_FEATURES, size), nn.SiLU(), nn.Linear(size, size))
        self.norm = nn.LayerNorm(size)
        self.heads = Heads(config)

    def observe(self, images: Tensor, before: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Images alone -> image tokens (B, I, D), queries (B, N - 3, D).

        images: (B, V, H, W, 3) uint8; before: those of the first memory lag; known (B,): whether there are any.
        """
        tokens = self.encoder(images, before, known)
        queries = self.queries.expand(len(tokens), -1, -1)
        void = tokens.new_zeros(len(tokens), 0, self.config.size)
        return tokens, self.layers[0](queries, tokens, void, void[..., 0].bool())

    def remember(self, queries: Tensor) -> Tensor:
        """The part of the queries (B, N - 3, D) of `observe` worth keeping: agents and free queries."""
        agents, rest = self.config.agent_queries, self.config.agent_queries + self.config.map_queries
        return torch.cat([queries[:, :agents], queries[:, rest:]], dim=1)

    def interpret(
        self, images: Tensor, queries: Tensor, ego: Tensor, navigation: Tensor, memory: Memory
    ) -> tuple[Tensor, Detections]:
        """Output of `observe`, ego (B, 2), navigation (B, 8), memory -> tokens (B, N - 1, D), detections.

        The tokens lack the last one, of the leader: it is made from detections of several frames.
        """
        kept = memory.tokens.shape[2]
        past = self.memory_norm(memory.tokens + self.motion(memory.motion)[:, :, None]).flatten(1, 2)
        hidden = ~memory.valid.repeat_interleave(kept, dim=1)
        extra = torch.stack([self.navigation(navigation), self.ego(ego)], dim=1)
        x = torch.cat([queries, extra], dim=1)
        for layer in self.layers[1:]:
            x = layer(x, images, past, hidden)
        tokens, images = self.norm(x).float(), images.float()
        agents, elements = self.config.agent_queries, self.config.agent_queries + self.config.map_queries
        with torch.autocast(x.device.type, enabled=False):  # boxes and polylines are metres: float32
            found = self.heads(tokens[:, :agents], tokens[:, agents:elements], images, tokens[:, -2], tokens[:, -1])
        return tokens, found

    def sequence(
        self, images: Tensor, ego: Tensor, navigation: Tensor, poses: Tensor, ages_s: Tensor, valid: Tensor
    ) -> tuple[Tensor, Detections]:
        """T frames of one drive, each remembering the ones before it: the form in which training runs.

        Args:
            images: (B, T, V, H, W, 3) uint8, oldest first, memory_lags_s apart.
            ego, navigation: (B, T, 2), (B, T, 8).
            poses: (B, T, L, 3) past base_links seen from each frame's; index l is the frame l + 1 before.
            ages_s: (B, T, L), s.
            valid: (B, T, L) bool; frames before the first are void in any case.
        Returns:
            scene tokens (B * T, N, D), detections of B * T samples.
        """
        batch, steps, lags = valid.shape
        step, lag = torch.arange(steps, device=valid.device)[:, None], torch.arange(lags, device=valid.device)
        valid = valid & (step > lag)
        before = torch.roll(images, 1, dims=1).flatten(0, 1)
        seen, queries = self.observe(images.flatten(0, 1), before, valid[..., 0].flatten())
        kept = self.remember(queries).unflatten(0, (batch, steps))
        past = torch.stack([torch.roll(kept, lag + 1, dims=1) for lag in range(lags)], dim=2)
        memory = Memory(past.flatten(0, 1), motion_features(poses, ages_s).flatten(0, 1), valid.flatten(0, 1))
        tokens, found = self.interpret(seen, queries, ego.flatten(0, 1), navigation.flatten(0, 1), memory)
        answers = found.cues.leader.unflatten(0, (batch, steps))
        before = torch.stack([torch.roll(answers, lag + 1, dims=1) for lag in range(lags)], dim=2).flatten(0, 1)
        leader = leader_token(
            answers.flatten(0, 1), before, ages_s.flatten(0, 1), valid.flatten(0, 1), self.config.size
        )
        return torch.cat([tokens, leader[:, None]], dim=1), found
