"""Losses by name: (logits (N, K), targets (N, K) in 0..1, NaN = unknown and left out) -> scalar."""

from collections.abc import Sequence

from torch import nn

from common.errors import UserError, choose
from losses.arc_face import ArcFace
from losses.bce import BCE
from losses.cross_entropy import CrossEntropy
from losses.focal import Focal
from losses.focal_symmetric_lovasz_hard_log import FocalSymmetricLovaszHardLog
from losses.hard_log import HardLog
from losses.l1 import L1
from losses.l2 import L2
from losses.roc_star import ROCStar
from losses.symmetric_lovasz import SymmetricLovasz
from losses.weighted_focal import WeightedFocal

LOSSES: dict[str, type[nn.Module]] = {
    "BCE": BCE,
    "Focal": Focal,
    "WeightedFocal": WeightedFocal,
    "L1": L1,
    "L2": L2,
    "ROCStar": ROCStar,
    "SymmetricLovasz": SymmetricLovasz,
    "HardLog": HardLog,
    "FocalSymmetricLovaszHardLog": FocalSymmetricLovaszHardLog,
    "ArcFace": ArcFace,
    "CrossEntropy": CrossEntropy,
    "WeightedCrossEntropy": CrossEntropy,
}


def build_loss(name: str, class_weights: Sequence[float], smoothing: float = 0.0) -> nn.Module:
    """A loss by its name; class_weights: how much each class counts, for the losses that weigh classes.

    smoothing: of the targets, for the cross-entropies of classes that exclude each other.
    """
    kind = choose(LOSSES, name, "--loss")
    if kind is CrossEntropy:
        return CrossEntropy(class_weights if name.startswith("Weighted") else None, smoothing)
    if smoothing:
        raise UserError(f"--label_smoothing {smoothing} belongs to CrossEntropy and WeightedCrossEntropy, not {name}")
    if kind is WeightedFocal:
        return WeightedFocal(class_weights)
    return ROCStar(len(class_weights)) if kind is ROCStar else kind()


__all__ = ["LOSSES", "build_loss"]
