"""ArcFace (Deng et al. 2019): a margin on the angle between a sample's features and its classes' directions."""

import math

import torch
import torch.nn.functional as F
from torch import nn

SCALE = 30.0


class ArcFace(nn.Module):
    """Mean over the known (sample, class) pairs of the cross-entropy of sigmoid(s cos(theta + m t)).

    logits: s cos(theta), as the networks `class_<timm>_arcface` give them. A true class must be nearer by the angle m
    (radians). The paper's softmax becomes one question a class, because the labels do not exclude each other; with soft
    targets t the margin shrinks in proportion. Beyond theta = pi - m t, where cos would rise again, the margin is
    subtracted from the cosine, as in the paper's code.
    """

    def __init__(self, margin: float = 0.5, scale: float = SCALE):
        super().__init__()
        self.margin, self.scale = margin, scale

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known, truth = targets.isfinite(), targets.nan_to_num()
        cosine = (logits.float() / self.scale).clamp(-1 + 1e-6, 1 - 1e-6)
        margin = self.margin * truth.float()
        moved = cosine * margin.cos() - (1 - cosine**2).sqrt() * margin.sin()
        moved = torch.where(cosine > (math.pi - margin).cos(), moved, cosine - margin * margin.sin())
        entropy = F.binary_cross_entropy_with_logits(self.scale * moved, truth.float(), reduction="none")
        return (entropy * known).sum() / known.sum().clamp(min=1)
