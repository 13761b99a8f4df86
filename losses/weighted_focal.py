"""Focal loss with a weight for each class, so that rare classes count."""

from collections.abc import Sequence

import torch

from losses.focal import Focal


class WeightedFocal(Focal):
    """sum over classes of w_k focal_k / sum of w, mean over samples.

    weights: one number a class (a competition's CLASS_WEIGHTS); without them every class counts alike.
    """

    def __init__(self, weights: Sequence[float] = (1.0,), gamma: float = 2.0):
        super().__init__(gamma)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights = self.weights.expand(logits.shape[1])
        return (self.terms(logits, targets) * weights).sum() / weights.sum() / len(logits)
