"""Checkpoints: plain tensors and numbers, written whole, loaded without running code from the file.

`<NNN>.pth` and `best.pth` hold {"model", "settings", "epoch", "scores"}; `last.pth` holds the optimiser and the
position in the epoch as well, so that training goes on from it exactly.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.files import atomic
from models.weights import read_weights


def run_folder(result_dir: str | Path, out_dir: str, fold: int) -> Path:
    """The folder of a run's checkpoints."""
    return Path(result_dir) / "models" / out_dir / f"fold{fold}"


def epoch_name(epoch: int) -> str:
    """File and folder names count epochs from 1 in three digits: 006."""
    return f"{epoch:03d}"


def save(content: dict, path: Path) -> None:
    """Write a checkpoint atomically; equal contents give equal bytes."""
    with atomic(path) as temporary, temporary.open("wb") as file:  # by a path, its name is in the file
        try:
            torch.save(_with_one_text(content), file)
        except RuntimeError as error:  # torch's end of the file, which is not written either when the disk is full
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _with_one_text(content: Any) -> Any:
    """The same content, in which equal texts are one object: of those a pickle has a reference, of others a copy."""
    if isinstance(content, str):
        return sys.intern(content)
    if isinstance(content, (list, tuple)):
        return type(content)(map(_with_one_text, content))
    if not isinstance(content, dict):
        return content
    same = copy.copy(content)  # a state dict has attributes, too
    same.clear()
    same.update((_with_one_text(key), _with_one_text(value)) for key, value in content.items())
    return same


def read(path: str | Path, flag: str) -> dict:
    """A checkpoint of our own; UserError when the file is something else."""
    content = read_weights(path, flag)
    if not {"model", "settings", "epoch"} <= content.keys():
        raise UserError(f"{flag} {path} is not a checkpoint of train.py; for other weights use --pretrained")
    return content


def load_model(model: nn.Module, content: dict, path: str | Path, flag: str) -> None:
    """Put a checkpoint's weights into `model`; UserError when they are of another architecture.

    What the loss remembers (`criterion.`) comes along when both have the same loss, else the model's own is kept.
    """
    own = model.state_dict()
    weights = {name: value for name, value in own.items() if name.startswith("criterion.")}
    weights |= {
        name: value for name, value in content["model"].items() if name in own or not name.startswith("criterion.")
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        its = content["settings"]
        raise UserError(
            f"{flag} {path} holds another network: --arch {its.get('arch')} --num_classes {its.get('num_classes')} "
            f"--in_channels {its.get('in_channels')}; give the same flags or choose another checkpoint"
        ) from error
