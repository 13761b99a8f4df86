"""Hard-example log loss (bestfitting, HPA 2018): every positive, but only the hardest negatives."""

import torch
import torch.nn.functional as F
from torch import nn


class HardLog(nn.Module):
    """For each class the mean cross-entropy over its positives and its hardest negatives; mean over classes.

    Of n negatives in the batch, those with the highest logits count: as many as there are positives plus half of n (at
    least 2), but no more than .7 n + 2. A soft target is a positive from .5 on. Classes without any known sample are
    left out.
    """

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        known, positive, negative = targets.isfinite(), targets >= 0.5, targets < 0.5
        by_hardness = logits.masked_fill(~negative, -torch.inf).argsort(dim=0, descending=True, stable=True)
        rank = by_hardness.argsort(dim=0)
        kept = positive | (negative & (rank < hard_negatives(positive.sum(0), negative.sum(0))))
        entropy = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
        classes = (entropy * kept).sum(0) / kept.sum(0).clamp(min=1)
        return classes.sum() / known.any(0).sum().clamp(min=1)


def hard_negatives(positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """How many of a class's negatives count, by the numbers of its positives and negatives (K,)."""
    wanted = positives + (negatives // 2).clamp(min=2)
    return torch.minimum(torch.minimum(wanted, negatives * 7 // 10 + 2), negatives)
