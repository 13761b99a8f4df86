"""Binary cross-entropy, one question a class."""

import torch
import torch.nn.functional as F
from torch import nn


class BCE(nn.Module):
    """Mean over the known (sample, class) pairs of -t log p - (1 - t) log(1 - p), p = sigmoid(logits)."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known = targets.isfinite()
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(), reduction="none")
        return (loss * known).sum() / known.sum().clamp(min=1)
