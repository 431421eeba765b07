"""How fast the leader comes nearer: as answered, and as measured by the change of its answered distance.

A network that is asked for the closing speed tends to answer zero: nearly always that is about right. The distance it
answers is good to a metre, and the change of that over a second tells the rest. B batch, L remembered frames.
"""

import torch
from torch import Tensor

LEADER_FEATURES = 11
CLOSING_SCALE_MPS, GAP_SCALE_M, BRAKING_SCALE_MPS2 = 5.0, 20.0, 3.0
LEAST_GAP_M = 2.0


def leader_token(now: Tensor, past: Tensor, ages_s: Tensor, valid: Tensor, size: int) -> Tensor:
    """What is known of the leader, as numbers in the first LEADER_FEATURES places of a token (B, size).

    Args:
        now: (B, 3) answer of the leader cue: logit of "there is one", gap / 10 m, closing speed / 5 m/s.
        past: (B, L, 3) those of remembered frames, L >= 2; the first two are used.
        ages_s: (B, L) s.
        valid: (B, L) bool.
    """
    now, past = now.detach(), past.detach()
    there, gap = now[:, 0].sigmoid(), 10.0 * now[:, 1]
    features = [torch.ones_like(gap), there, there * gap / GAP_SCALE_M, there / (0.2 + gap.clamp(min=0) / GAP_SCALE_M)]
    for lag in range(2):
        known = (valid[:, lag] & (past[:, lag, 0] > 0) & (now[:, 0] > 0)).float()
        closing = (10.0 * past[:, lag, 1] - gap) / ages_s[:, lag].clamp(min=0.1) * known
        closing = closing.clamp(-15.0, 15.0)
        braking = closing.clamp(min=0) ** 2 / (2 * gap.clamp(min=LEAST_GAP_M))
        features += [known, closing / CLOSING_SCALE_MPS, (braking / BRAKING_SCALE_MPS2).clamp(max=4.0)]
    features.append(there * now[:, 2])
    token = now.new_zeros(len(now), size)
    token[:, :LEADER_FEATURES] = torch.stack(features, dim=1)
    return token
