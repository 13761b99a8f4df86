"""The wrapper that makes any network of logits a classifier under the models' contract."""

from collections.abc import Sequence

import torch
from torch import nn


class Classifier(nn.Module):
    """Images of 0..255 in, losses or probabilities out. Normalising is the network's own first step, so it happens
    once and alike in training and inference; mean and std travel with the weights.

    net: (N, C, H, W) -> (N, K) logits. criterion: (logits, targets) -> scalar.
    mean, std: of pixels in 0..1, one number a channel. Weights and images lie channels-last in memory, which is up to
    half as fast again for convolutions (benchmarks/training_step.py).
    """

    def __init__(self, net: nn.Module, criterion: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.net = net
        self.criterion = criterion
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """images (N, C, H, W), uint8 or float in 0..255; targets (N, K) in 0..1, NaN where unknown.

        Returns {"loss": scalar} in training, {"probs": (N, K)} in evaluation, and both in evaluation with targets.
        """
        logits = self.net(self.normalised(images))
        out = {} if targets is None else {"loss": self.criterion(logits, targets)}
        return out if self.training else out | {"probs": self.probabilities(logits)}

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Images of 0..255 as the network takes them."""
        images = images.to(dtype=torch.float32, memory_format=torch.channels_last)
        return (images - self.mean) / self.std

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, K) probabilities: of classes that exclude each other when the loss says so, else one question a class."""
        logits = logits.float()
        return logits.softmax(1) if getattr(self.criterion, "exclusive", False) else logits.sigmoid()
