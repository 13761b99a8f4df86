"""The 2018 competition's DenseNets (bestfitting's, 28 classes; also files of 19 classes with the same names).

Their files name every weight of the features twice, below `backbone.features` and in stages (`conv1`, `encoder2` to
`encoder5`), in the spelling of torch before 0.4 (`norm.1`), perhaps below `module.`; the head is `bn1`, `fc1`, `bn2`,
`logit`. The network is `class_<DenseNet>_dropout`, or `_large_dropout`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError, some
from common.foreign import read_state
from models.weights import densenet_name, fitting_weights

OLD_CLASSES = 28

STAGES = {
    "conv1.0": "conv0", "conv1.1": "norm0", "encoder2.0": "denseblock1",
    "encoder3.0": "transition1", "encoder3.1": "denseblock2", "encoder4.0": "transition2", "encoder4.1": "denseblock3",
    "encoder5.0": "transition3", "encoder5.1": "denseblock4", "encoder5.2": "norm5",
}  # fmt: skip
OURS = {
    **{name: f"backbone.features.{ours}" for name, ours in STAGES.items()},
    "bn1": "head.layers.0", "fc1": "head.layers.2", "bn2": "head.layers.4", "logit": "head.layers.6",
}  # fmt: skip
LAST = ("head.layers.6.weight", "head.layers.6.bias")


def read_bestfitting(path: str | Path, flag: str) -> dict[str, torch.Tensor]:
    """The weights of such a file under our names. UserError when it is another file."""
    weights = {our_name(name): value for name, value in read_state(path, flag).items()}
    if LAST[1] not in weights:
        raise UserError(f"{flag} {path} is no DenseNet of the 2018 competition: it lacks logit.bias ({some(weights)})")
    return weights


def our_name(name: str) -> str:
    """A weight's name in our networks.

    >>> our_name("encoder5.1.denselayer3.conv.2.weight"), our_name("fc1.bias")
    ('backbone.features.denseblock4.denselayer3.conv2.weight', 'head.layers.2.bias')
    """
    name = densenet_name(name)
    part = next((part for part in OURS if name.startswith(f"{part}.")), None)
    return OURS[part] + name.removeprefix(part) if part else name


def load_bestfitting(net: nn.Module, weights: dict[str, torch.Tensor], source: str) -> list[str]:
    """Put the weights of `read_bestfitting` into `net`; returns the names of those that keep their random start.

    That is the last layer when it is for another number of classes. UserError when any other is missing or of another
    shape; source: the flag and file, for the message.
    """
    own = net.state_dict()
    fitting = fitting_weights(weights, own)
    fresh = [name for name in own if name not in fitting and not name.endswith("num_batches_tracked")]
    lacking = [name for name in fresh if name not in LAST]
    if lacking:
        raise UserError(
            f"{source} does not fit --arch: {len(lacking)} of the network's {len(own)} weights are missing there or "
            f"have another shape ({some(lacking)}); class_densenet121_dropout is the usual one"
        )
    net.load_state_dict(fitting, strict=False)
    return fresh


class NewClasses(nn.Module):
    """A network of the old classes that answers in the new ones, untrained.

    groups: for each new class but the last the old ones that make it; its probability is that of any of them, as if
    they were independent: 1 - product of 1 - p. The last class (Negative) is there when none of the old ones is.
    """

    def __init__(self, net: nn.Module, groups: Sequence[Sequence[int]]):
        super().__init__()
        self.net, self.groups = net, groups

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return new_logits(self.net(images), self.groups)


def new_logits(logits: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """(N, old classes) logits -> (N, len(groups) + 1): see NewClasses."""
    absent = functional.logsigmoid(-logits.float())
    merged = [logit_of_any(absent[:, list(group)]) for group in groups]
    return torch.stack([*merged, -logit_of_any(absent)], dim=1)


def logit_of_any(absent: torch.Tensor) -> torch.Tensor:
    """(N, k) logarithms of 1 - p -> (N,) logit of 1 - their product."""
    none = absent.sum(1).clamp(max=-1e-30)
    return torch.log(-torch.expm1(none)) - none
