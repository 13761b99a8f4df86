"""Absolute error of probabilities."""

import torch
from torch import nn


class L1(nn.Module):
    """Mean over the known (sample, class) pairs of |p - t|, p = sigmoid(logits)."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known = targets.isfinite()
        error = (logits.float().sigmoid() - targets.nan_to_num()).abs()
        return (error * known).sum() / known.sum().clamp(min=1)
