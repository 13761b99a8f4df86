"""What the processes of a run, one a GPU, tell each other."""

import torch
from lightning_fabric import Fabric
from torch import nn


def share_gradients(fabric: Fabric, model: nn.Module) -> None:
    """Make the gradients of all processes their mean."""
    if fabric.world_size > 1:
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad = fabric.all_reduce(weight.grad, reduce_op="mean")


def share_buffers(fabric: Fabric, model: nn.Module, mean: bool = False) -> None:
    """Give all processes the buffers (running means of batch norms) of the first, whose are saved, or their `mean`."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            if mean and buffer.is_floating_point():
                buffer.copy_(fabric.all_reduce(buffer, reduce_op="mean"))
            else:
                torch.distributed.broadcast(buffer, 0)


def gather(fabric: Fabric, results: list) -> list:
    """The results of all processes in one list, in each of them."""
    if fabric.world_size == 1:
        return results
    parts: list[list] = [[] for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(parts, results)
    return [result for part in parts for result in part]
