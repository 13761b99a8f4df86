"""Optimisers by name, over the weights of a model in groups with their own learning rate and weight decay."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from common.errors import UserError, choose

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}


def make_optimizer(
    name: str, model: nn.Module, weight_decay: float = 0.0, backbone_lr: float = 1.0, fused: bool = False
) -> torch.optim.Optimizer:
    """An optimiser whose groups carry `scale`, their learning rate in parts of the schedule's.

    backbone_lr: the scale of the weights below a module called `backbone`. Biases and the weights of normalisation
    (all of one dimension) do not decay. fused: all weights in one kernel, where torch has it.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for weight, scale in _scaled(model, backbone_lr):
        groups.setdefault((scale, weight_decay if weight.ndim > 1 else 0.0), []).append(weight)
    lists = [
        {"params": weights, "scale": scale, "weight_decay": decay} for (scale, decay), weights in groups.items()
    ]
    return choose(OPTIMIZERS, name, "--optimizer")(lists, lr=1e-3, **({"fused": True} if fused else {}))


def _scaled(model: nn.Module, backbone_lr: float) -> Iterator[tuple[nn.Parameter, float]]:
    found = False
    for name, weight in model.named_parameters():
        inside = "backbone" in name.split(".")
        found |= inside
        if weight.requires_grad:
            yield weight, backbone_lr if inside else 1.0
    if backbone_lr != 1.0 and not found:
        raise UserError(f"--backbone_lr {backbone_lr}: this network has no part called backbone; leave the flag out")


LAST_PARTS = ("norm", "fc_norm", "head", "fc", "classifier", "conv_head", "bn2")  # of timm's networks, after the blocks


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms of a model's backbone. In evaluation mode they keep the statistics that they have: those of a
    small batch of unlike images are far from the mean of all batches, which prediction goes by.
    """
    norms = [
        layer for name, layer in model.named_modules()
        if "backbone" in name.split(".") and isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]  # fmt: skip
    if not norms:
        raise UserError("--freeze_norms: this network has no batch norms in a part called backbone; leave the flag out")
    return norms


def freeze_but_last(network: nn.Module, blocks: int) -> None:
    """Leave only the last `blocks` blocks of a network's backbone to train, with what comes after them.

    network: a timm network, or one with such a `backbone`. UserError when it has no row of blocks.
    """
    backbone = getattr(network, "backbone", network)
    row = next((getattr(backbone, name) for name in ("blocks", "stages", "layers") if hasattr(backbone, name)), None)
    if row is None:
        raise UserError(f"--train_blocks {blocks}: this network has no row of blocks to train the last ones of")
    for name, part in backbone.named_children():
        if name not in LAST_PARTS:
            part.requires_grad_(False)
    for own in backbone._parameters.values():  # such as a transformer's position embedding
        if own is not None:
            own.requires_grad = False
    for block in list(row)[-blocks:]:
        block.requires_grad_(True)
