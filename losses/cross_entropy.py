"""Cross-entropy over classes that exclude each other."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class CrossEntropy(nn.Module):
    """Mean over the samples of -sum_k w_k t_k log softmax(logits)_k, in parts of the mean weight of the targets.

    targets (N, K): one-hot, or any mixture that adds up to 1 (MixUp, soft labels); a sample with an unknown (NaN) is
    left out. smoothing: the share of a target that goes to all classes alike (Szegedy et al. 2016). The models' `probs`
    become a softmax, because the classes exclude each other.
    """

    exclusive = True

    def __init__(self, class_weights: Sequence[float] | None = None, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known = targets.isfinite().all(1)
        logits, targets = logits[known].float(), targets[known].float()
        weights = torch.ones_like(targets) if self.class_weights is None else self.class_weights.expand_as(targets)
        counts = (targets * weights).sum()
        targets = targets * (1 - self.smoothing) + self.smoothing / targets.shape[1]
        loss = -(F.log_softmax(logits, 1) * targets * weights).sum()
        return loss / counts.clamp(min=1e-6)
