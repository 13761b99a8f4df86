"""Squared error of probabilities (the Brier score)."""

import torch
from torch import nn


class L2(nn.Module):
    """Mean over the known (sample, class) pairs of (p - t)^2, p = sigmoid(logits)."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known = targets.isfinite()
        error = (logits.float().sigmoid() - targets.nan_to_num()) ** 2
        return (error * known).sum() / known.sum().clamp(min=1)
