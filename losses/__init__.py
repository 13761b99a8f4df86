"""Losses by name: (logits (N, K), targets (N, K) in 0..1, NaN = unknown and left out) -> scalar."""

from collections.abc import Callable

from torch import nn

from losses.bce import BCE
from losses.focal import Focal

LOSSES: dict[str, Callable[[], nn.Module]] = {"BCE": BCE, "Focal": Focal}
