"""Focal loss (Lin et al. 2017), as the HPA systems use it: summed over the classes."""

import torch
import torch.nn.functional as F
from torch import nn


class Focal(nn.Module):
    """(1 - p_t)^gamma x cross-entropy, summed over classes, mean over samples; p_t = probability given to the truth.

    With soft targets t, 1 - p_t generalises to |t - p|.
    """

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.terms(logits, targets).sum() / len(logits)

    def terms(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each sample and class, (N, K); 0 where the target is unknown."""
        known = targets.isfinite()
        logits, targets = logits.float(), targets.nan_to_num()
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (targets - logits.sigmoid()).abs() ** self.gamma * entropy * known
