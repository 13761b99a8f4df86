"""Is everything here that Podium needs? Versions, the device, a step of every kind of model, the packaged weights.

    python check.py        or: make check

A line each, `ok` or `FAILED` with the reason; the exit code is 1 when something failed. Networks are small and have
random weights: a minute on one CPU core. Without a GPU all runs on the CPU, which is no failure.
"""

import argparse
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, run
from common.say import say

if TYPE_CHECKING:
    import torch
    from torch import nn

# What is imported from here on may be what is missing: each check imports its own.
OLDEST, TOO_NEW = (3, 10), (3, 14)
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
SIDE, CLASSES, CHANNELS = 64, 3, 3  # pixels of the images; classes and channels of the networks
STAND_INS = {"classify": {"<timm>": "test_resnet"}, "find": {"<timm>": "resnet18", "<size>": "nano"}}
Check = tuple[str, Callable[[], str]]


def get_args_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Do all checks; 1 when one failed."""
    get_args_parser().parse_args(argv)
    failed = [name for name, check in checks() if not report(name, check)]
    say(f"FAILED: {', '.join(failed)}" if failed else "everything is here and works")
    return 1 if failed else None


def report(name: str, check: Callable[[], str]) -> bool:
    """Do a check and say in a line how it went; whether it went well."""
    try:
        detail = check()
    except Exception as error:  # noqa: BLE001 - whatever is wrong here is what the user wants to know
        reason = (str(error).splitlines() or [""])[0]
        say(f"FAILED  {name}: {reason if isinstance(error, UserError) else f'{type(error).__name__}: {reason}'}")
        return False
    say(f"ok      {name}: {detail}")
    return True


def checks() -> Iterator[Check]:
    """The checks by name, each a function that says what it saw or raises."""
    yield "Python", python_version
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            yield text, lambda text=text: installed(text)
    yield "device", device_name
    yield "losses", all_losses
    yield from kinds_of_models()
    yield "packaged weights", packaged_weights


def python_version(version: tuple[int, ...] = sys.version_info) -> str:
    """The version of Python."""
    if not OLDEST <= tuple(version[:2]) < TOO_NEW:
        raise UserError(f"Podium needs Python 3.10 to 3.13, this is {version[0]}.{version[1]}")
    return platform.python_version()


def installed(text: str) -> str:
    """The installed version of a requirement such as `torch>=2.4`; UserError when it is missing or another one."""
    name = re.match(r"[\w.-]+", text)[0]
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise UserError(f"is not installed; pip install -r {REQUIREMENTS.name}") from None
    from packaging.requirements import Requirement  # a package itself

    if not Requirement(text).specifier.contains(version, prereleases=True):
        raise UserError(f"{version} is installed; pip install -r {REQUIREMENTS.name}")
    return version


def device() -> "torch.device":
    """The first GPU, or the CPU."""
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def device_name() -> str:
    """The GPU with its memory, or that there is none."""
    import torch

    if not torch.cuda.is_available():
        return f"no GPU that torch {torch.__version__} can use; everything runs on the CPU, trainings take far longer"
    own = torch.cuda.get_device_properties(0)
    return f"{own.name}, {own.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} in all"


def all_losses() -> str:
    """A value and gradients of every loss."""
    import torch

    from losses import LOSSES, build_loss
    from losses.segmentation import MAP_LOSSES, MapLoss

    targets = torch.eye(CLASSES)
    for name in LOSSES:
        logits = torch.linspace(-1, 1, CLASSES**2).reshape(CLASSES, CLASSES).requires_grad_()
        finite(build_loss(name, [1.0] * CLASSES)(logits, targets), name).backward()
    for name in MAP_LOSSES:
        maps = torch.zeros(1, CLASSES, 8, 8, requires_grad=True)
        sum(MapLoss(torch.ones(CLASSES), name)(maps, torch.ones(1, 8, 8).long()).values()).backward()
    return ", ".join((*LOSSES, *MAP_LOSSES))


def kinds_of_models() -> Iterator[Check]:
    """A check for each form of --arch, and for the network of the finder hpacellseg."""
    try:
        from models import DETECTORS, MODELS, SEGMENTERS
    except ImportError as error:
        missing = str(error)

        def fail() -> str:
            raise UserError(f"cannot be imported: {missing}")

        yield "models", fail
        return
    for form in MODELS:
        yield form, lambda form=form: classifier_step(small(form, "classify"))
    for form in (*DETECTORS, *SEGMENTERS):
        yield form, lambda form=form: finder_step(small(form, "find"))
    yield "hpacellseg", segmentator_pass


def small(form: str, kind: str) -> str:
    """A form of --arch with a small network in it."""
    for blank, name in STAND_INS[kind].items():
        form = form.replace(blank, name)
    return form


def classifier_step(arch: str) -> str:
    """Losses, gradients and probabilities of a classifier, under the models' contract."""
    import torch

    from losses import build_loss
    from models import build, wrapper_of

    kind = wrapper_of(arch)
    net = build(arch, CLASSES, CHANNELS, SIDE)
    model = kind(net, build_loss("BCE", [1.0] * CLASSES), (0.5,) * CHANNELS, (0.25,) * CHANNELS).to(device())
    images, targets = classifier_input(kind), torch.eye(CLASSES)[:2].to(device())
    seen = step(model, arch, images, targets)
    finite(model(images)["probs"], arch)
    return seen


def classifier_input(kind: type) -> Any:
    """What a class of models takes: two images, or two images with two cells each."""
    import torch

    from models import BagOfCells, DuoBranch, MaskPooled

    counts = torch.tensor([2, 2], device=device())
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.int64, device=device())
    labels[:, : SIDE // 2, : SIDE // 2], labels[:, SIDE // 2 :, SIDE // 2 :] = 1, 2
    inputs = {
        BagOfCells: lambda: {"cells": pixels(4), "counts": counts},
        DuoBranch: lambda: {"images": pixels(2), "cells": pixels(4), "counts": counts},
        MaskPooled: lambda: {"images": pixels(2), "labels": labels},
    }
    return inputs.get(kind, lambda: pixels(2))()


def finder_step(arch: str) -> str:
    """Losses, gradients and finds of a detector or a network of class maps, under the models' contract."""
    import torch

    from models import build_detector, task_of

    model = build_detector(arch, CLASSES, CHANNELS, (0.5,) * CHANNELS, (0.25,) * CHANNELS).to(device())
    images = pixels(2)
    box = torch.tensor([[8.0, 8.0, 40.0, 48.0]], device=device())
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8, device=device())
    mask[:, 8:48, 8:40] = 1
    if task_of(arch) == "segment":
        seen = step(model, arch, images, mask.long().expand(2, -1, -1))
        finite(model(images)["map"], arch)
        return seen
    label = torch.ones(1, dtype=torch.int64, device=device())
    seen = step(model, arch, images, [{"boxes": box, "labels": label, "masks": mask}] * 2)
    for found in model(images):
        finite(found["boxes"], arch)
        finite(found["scores"], arch)
    return seen


def step(model: "nn.Module", arch: str, images: Any, targets: Any) -> str:
    """Losses and gradients of a batch; the model is left in evaluation."""
    losses = model.train()(images, targets)
    total = finite(sum(losses.values()), arch)
    total.backward()
    model.eval().requires_grad_(False)
    weights = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"{arch}, {weights:.1f} M weights, loss {total.item():.3f}"


def pixels(count: int) -> "torch.Tensor":
    """Noise as images (count, CHANNELS, SIDE, SIDE), uint8."""
    import torch

    from common.seeds import rng

    values = rng(0, "check").integers(0, 256, (count, CHANNELS, SIDE, SIDE), dtype="uint8")
    return torch.from_numpy(values).to(device())


def finite(values: "torch.Tensor", name: str) -> "torch.Tensor":
    """`values`, or a UserError when one of them is no finite number."""
    if not values.isfinite().all():
        raise UserError(f"{name} gives numbers that are not finite")
    return values


def segmentator_pass() -> str:
    """Class maps of the HPA Cell Segmentator's network; its weights are files of their own."""
    import torch

    from models.dpn_unet import DpnUnet

    with torch.inference_mode():
        maps = finite(DpnUnet().to(device()).eval()(pixels(1).float() / 255), "hpacellseg")
    return f"DPN-92 U-Net, maps of {tuple(maps.shape[1:])}; its weights come with --nuc_model and --cell_model"


def packaged_weights() -> str:
    """The ImageNet weights of a package, in their network."""
    import torch

    from models import build
    from models.weights import PACKAGED, load_pretrained

    net = build("tf_efficientnet_lite0", CLASSES, CHANNELS, SIDE)
    fresh = load_pretrained(net, PACKAGED)
    with torch.inference_mode():
        finite(net.eval()(pixels(1).cpu().float() / 255), PACKAGED)
    return f"{PACKAGED} in tf_efficientnet_lite0; with a random start: {', '.join(fresh)}"


if __name__ == "__main__":
    run(main)
