"""Losses of class maps: Dice by class, focal loss, agreement of the boundaries; one of them or a weighted sum."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

# --loss -> what each part weighs (X-SIGHT's loss, that of its plain variant, and one that learns fast)
MAP_LOSSES: dict[str, dict[str, float]] = {
    "DiceFocalBoundary": {"dice": 0.7, "focal": 0.2, "boundary": 0.1},
    "FrequencyDice": {"dice": 1.0},
    "DiceCrossEntropy": {"dice": 0.5, "cross_entropy": 0.5},
    "CrossEntropy": {"cross_entropy": 1.0},
}
UNWEIGHTED = {"DiceCrossEntropy", "CrossEntropy"}  # weights by frequency would make its cells a third too large
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss


class MapLoss(nn.Module):
    """A weighted sum of `PARTS` by their names.

    class_weights (K,): how much a class counts in Dice. name: one of MAP_LOSSES.
    """

    def __init__(self, class_weights: Sequence[float] | torch.Tensor, name: str = "DiceFocalBoundary"):
        super().__init__()
        self.register_buffer("class_weights", torch.as_tensor(class_weights, dtype=torch.float32), persistent=False)
        self.parts = MAP_LOSSES[name]

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """logits (N, K, H, W); targets (N, H, W) integer class maps or (N, K, H, W) shares of the classes.

        The parts, each times its weight, computed in float32 also under mixed precision.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            targets = shares(targets, logits.shape[1]).to(logits.dtype)
            values = {
                "dice": lambda: dice(logits.softmax(1), targets, self.class_weights.to(logits.dtype)),
                "focal": lambda: focal(logits, targets),
                "cross_entropy": lambda: functional.cross_entropy(logits, targets),
                "boundary": lambda: boundary(logits.softmax(1), targets),
            }
            return {name: weight * values[name]() for name, weight in self.parts.items()}


def shares(targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Class maps (N, H, W) as shares (N, K, H, W) of 0 and 1; shares pass as they are."""
    if targets.ndim == 4:
        return targets
    return functional.one_hot(targets.long(), classes).movedim(-1, 1)


def dice(probs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - Dice of each class over the whole batch, averaged by `weights` (K,); probs, targets (N, K, H, W).

    smooth: pixels added to the common and to all, so that a class that is nowhere costs nothing when none is found.
    """
    common = (probs * targets).sum((0, 2, 3))
    total = probs.sum((0, 2, 3)) + targets.sum((0, 2, 3))
    return ((1 - (2 * common + smooth) / (total + smooth)) * weights).sum() / weights.sum()


def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Lin et al. (2017) for classes that exclude each other: the mean over the pixels of -alpha (1 - p)^gamma log p,
    p the probability of the true class.
    """
    logs = logits.log_softmax(1)
    return -(targets * ALPHA * (1 - logs.exp()) ** GAMMA * logs).sum(1).mean()


def boundary(probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of the steepness of predicted and true maps (N, K, H, W)."""
    return functional.mse_loss(steepness(probs), steepness(targets))


def steepness(maps: torch.Tensor) -> torch.Tensor:
    """The gradient's length at each pixel, from the differences to the next pixel below and to the right, 0 beyond
    the last: (N, K, H, W) -> the same shape.
    """
    down = functional.pad(maps[..., 1:, :] - maps[..., :-1, :], (0, 0, 0, 1))
    right = functional.pad(maps[..., :, 1:] - maps[..., :, :-1], (0, 1))
    return (down**2 + right**2 + 1e-8).sqrt()  # the root has no gradient at 0
