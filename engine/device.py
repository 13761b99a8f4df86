"""From `--gpu_id` and `--mixed_precision` to a Lightning Fabric that runs there."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from common.errors import UserError


class Autocast(MixedPrecision):
    """Mixed precision by autocast alone: what goes into a network stays as it is, as Fabric's own would round the boxes
    of the targets to float16, that is to half a pixel beyond 512.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def make_fabric(gpu_id: str, mixed_precision: bool, single: bool = False) -> Fabric:
    """A Fabric on the GPUs of `gpu_id` ("0", "0,1"), or on the CPU where the machine has none or gpu_id is "cpu".

    single: for work that one GPU does, the first of them alone.
    Mixed precision is float16 with loss scaling on a GPU; the CPU computes in float32.
    """
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    cv2.setNumThreads(1)  # its threads do not outlive a fork, by which the readers' processes begin: those would wait
    gpus = [] if gpu_id == "cpu" else _gpus(gpu_id)[: 1 if single else None]
    if not gpus:
        return Fabric(accelerator="cpu", devices=1, precision="32-true")
    strategy = "ddp" if len(gpus) > 1 else "auto"
    torch.set_float32_matmul_precision("high")
    how = {"plugins": [Autocast("16-mixed", "cuda")]} if mixed_precision else {"precision": "32-true"}
    return Fabric(accelerator="cuda", devices=gpus, strategy=strategy, **how)


def _gpus(gpu_id: str) -> list[int]:
    parts = gpu_id.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--gpu_id {gpu_id} must be GPU numbers joined by commas, such as 0 or 0,1, or the word cpu")
    count = torch.cuda.device_count()
    wanted = sorted({int(part) for part in parts})
    if count and wanted[-1] >= count:
        raise UserError(f"--gpu_id {gpu_id}: this machine has the GPUs 0 to {count - 1} only")
    return wanted if count else []


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """UserError with the remedy where a GPU's memory does not suffice."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(f"the GPU's memory does not suffice: {remedy}") from error


def describe(fabric: Fabric) -> str:
    """One line for the user on where the work runs."""
    if fabric.device.type == "cpu":
        return f"device: CPU, {torch.get_num_threads()} threads, float32 (no GPU is used)"
    name = torch.cuda.get_device_name(fabric.device)
    return f"device: {fabric.world_size} x {name}, {fabric.strategy.precision.precision}"
