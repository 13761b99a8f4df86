"""Bags: cells that share the label of their image (multiple-instance learning), as HPA's 2nd place trained them."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from common.errors import UserError
from losses.bce import BCE
from models.classifier import Classifier
from models.dropout import FeaturesAndHead, pooled

POOLS = ("max", "mean", "lse", "attention")
SHARPNESS = 4.0  # of lse: 0 would be the mean of the logits, infinity their maximum


class BagPool(nn.Module):
    """Logits of cells -> logits of the bags that they lie in, by one of POOLS.

    max: the highest logit; lse: its smooth form log(mean(exp(r x logit))) / r, r = SHARPNESS; mean: of the cells'
    probabilities; attention: the same, weighted for each class by what a gated layer makes of the cells' features
    (Ilse et al. 2018).
    """

    def __init__(self, rule: str, features: int, classes: int, hidden: int = 128):
        super().__init__()
        self.rule = rule
        if rule == "attention":
            self.value, self.gate = nn.Linear(features, hidden), nn.Linear(features, hidden)
            self.score = nn.Linear(hidden, classes)

    def forward(self, logits: torch.Tensor, features: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """logits (M, K) and features (M, C) of the cells, bag after bag; counts (N,) >= 1 of each -> (N, K)."""
        logits, sizes = logits.float(), counts[:, None].float()
        if self.rule == "max":
            return in_bags(logits, counts).amax(1)
        if self.rule == "lse":
            return (in_bags(SHARPNESS * logits, counts).logsumexp(1) - sizes.log()) / SHARPNESS
        if self.rule == "mean":
            log_weights = -sizes.log().repeat_interleave(counts, dim=0)
        else:
            scores = self.score(self.value(features).tanh() * self.gate(features).sigmoid()).float()
            log_weights = scores - in_bags(scores, counts).logsumexp(1).repeat_interleave(counts, dim=0)
        present, absent = (in_bags(log_weights + functional.logsigmoid(x), counts) for x in (logits, -logits))
        return present.logsumexp(1) - absent.logsumexp(1)


def in_bags(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(M, K) rows, bag after bag, as (N, largest bag, K), filled up with -inf."""
    return pad_sequence(list(values.split(counts.tolist())), batch_first=True, padding_value=-torch.inf)


class BagOfCells(Classifier):
    """Crops of cells in, bags of them out: each is judged for itself, and the bag's answer shall be its image's label.

    net: a backbone with the published head. criterion: of the bags; the cells themselves are drawn towards the image's
    label by `cell_loss` x binary cross-entropy. image_loss: the weight of whole images, where a subclass sees them.
    """

    def __init__(
        self, net: FeaturesAndHead, criterion: nn.Module, mean: Sequence[float], std: Sequence[float], *,
        pool: str = "max", cell_loss: float = 0.1, image_loss: float = 1.0,
    ):  # fmt: skip
        super().__init__(net, criterion, mean, std)
        if getattr(criterion, "exclusive", False):
            raise UserError("bags of cells ask one question a class: --loss must not be a CrossEntropy; BCE is right")
        self.pool = BagPool(pool, net.head.layers[0].num_features, net.head.layers[-1].out_features)
        self.cell_criterion = BCE()
        self.cell_loss, self.image_loss = cell_loss, image_loss

    def forward(self, images, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """images: what `look` takes, N images with M cells in all; or a batch (M, C, H, W) alone, as in a Classifier.

        targets (N, K) of the images. With targets: "loss" of the bags, "cell_loss" and "image_loss". In evaluation:
        "probs", of the bags (N, K) with targets, of the cells (M, K) without; "image_probs" (N, K) of the whole
        images, or where they are not seen, of the bags; with targets "cell_max" (N, K), the highest of the cells'.
        """
        if isinstance(images, torch.Tensor):
            return super().forward(images, targets)
        cells, counts, whole = self.look(images)
        # One pass through the head, so that its batch norms see in training what they see in evaluation.
        logits = self.net.head.layers(cells if whole is None else torch.cat([cells, whole]))
        logits, image_logits = logits.split([len(cells), len(logits) - len(cells)])
        bags = self.pool(logits, cells, counts)
        out = {} if targets is None else self.losses(bags, logits, image_logits, counts, targets)
        if self.training:
            return out
        if targets is not None:
            out["cell_max"] = self.probabilities(in_bags(logits.float(), counts).amax(1))
        probs = self.probabilities(logits if targets is None else bags)
        return out | {"probs": probs, "image_probs": self.probabilities(bags if whole is None else image_logits)}

    def look(self, images: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The head's input for the cells (M, 2C), bag after bag, the sizes of the bags (N,), and for the images, if
        they are seen (N, 2C).

        images: {"cells": (M, C, H, W) crops, bag after bag, "counts": (N,)}.
        """
        return pooled(self.net.features(self.normalised(images["cells"]))), images["counts"], None

    def losses(self, bags, logits, image_logits, counts, targets) -> dict[str, torch.Tensor]:
        """The weighted losses by name."""
        of_cells = self.cell_criterion(logits, targets.repeat_interleave(counts, dim=0))
        out = {"loss": self.criterion(bags, targets), "cell_loss": self.cell_loss * of_cells}
        if len(image_logits):
            out["image_loss"] = self.image_loss * self.criterion(image_logits, targets)
        return out
