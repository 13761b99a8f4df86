"""Penalty-reduced focal loss of centre heatmaps (CornerNet, Law & Deng 2018; CenterNet, Zhou et al. 2019)."""

import torch
from torch import nn
from torch.nn import functional


class HeatmapFocal(nn.Module):
    """Sum over all pixels, divided by the number of centres (by 1 where there is none). With p = sigmoid(logit):

    a centre (target 1) costs -(1 - p)^alpha log p, any other pixel -(1 - target)^beta p^alpha log(1 - p), so a peak
    beside a true one costs less than one far away.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 4.0):
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits, targets: (N, K, h, w), targets in 0..1 with exactly 1 at the centres. A float32 scalar."""
        logits = logits.float()
        probs, centre = logits.sigmoid(), targets == 1
        hit = (1 - probs) ** self.alpha * functional.logsigmoid(logits)
        miss = (1 - targets) ** self.beta * probs**self.alpha * functional.logsigmoid(-logits)
        return -torch.where(centre, hit, miss).sum() / centre.sum().clamp(min=1)
