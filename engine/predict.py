"""The prediction loop: every view of every sample from one decoding, saved part by part, never made twice."""

import json
import shutil
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from augment.views import apply_view
from common.errors import UserError
from common.files import DAMAGED, atomic, check_archive, remove_leftovers
from engine.clock import Clock
from engine.data import Batches, Samples, batches_of, loader
from engine.image_cells import Bags

PART_BATCHES = 16  # batches between two saves: what an interruption costs at most


class Tally(NamedTuple):
    """What a prediction took: samples looked at and left, seconds a sample of waiting for it and of a view of it."""

    looked: int = 0
    left: int = 0
    waiting: float = 0.0
    looking: float = 0.0


def predict_views(
    fabric: Fabric, model: nn.Module, samples: Samples | Bags, files: dict[str, Path], identity: str, batch_size: int,
    workers: int, title: str, clock: Clock | None = None, whole: bool = False,
) -> Tally:  # fmt: skip
    """Predict all samples in the views that `files` (view -> prob_<dataset>.npz) names, and write those files.

    Every sample is read, decoded and cropped once; the views are flips on the device, of the label images, too. A file
    that these weights (`identity`) already made from these samples stays as it is; of an interrupted run the parts that
    are saved are used. With several processes each predicts its share of the parts, which may be none: `model` is one
    that does not wait for the others.

    No part is begun that will not be done by the end of `clock`; with `whole` none, either, when it shows that all of
    them together will not. The parts that are done are kept for the next run.
    """
    made_by = _fingerprint(samples, identity)
    views = [view for view, path in files.items() if _made_by(path) != made_by]
    if fabric.global_rank == 0:
        _tidy(files.values(), done=not views)
    if not views:
        return Tally()
    parts = _Parts(files[views[0]], views, len(samples), batch_size * PART_BATCHES, made_by)
    batches = _predict_parts(fabric, model, samples, parts, batch_size, workers, title, clock or Clock(), whole)
    fabric.barrier()
    left = sum(stop - start for start, stop in parts.todo())
    fabric.barrier()  # all have looked before the parts go
    if fabric.global_rank == 0 and not left:
        for view, probs in parts.gather().items():
            _save_predictions(files[view], samples.rows, probs, made_by)
        shutil.rmtree(parts.folder)
    waiting, looking = _steady(batches)
    return Tally(sum(count for count, *_ in batches), left, waiting, looking / len(views))


def _tidy(files: Iterable[Path], done: bool) -> None:
    """Remove what a killed run left beside the files; `done`: its parts, too, which have become the files."""
    for path in files:
        remove_leftovers(path.parent)
        if done:
            shutil.rmtree(_parts_folder(path), ignore_errors=True)


def _predict_parts(fabric, model, samples, parts, batch_size, workers, title, clock, whole) -> list[tuple]:
    """Predict and save parts while the clock allows it; (samples, seconds of waiting, of looking) of each batch."""
    todo = parts.todo()[fabric.global_rank :: fabric.world_size]
    fabric.barrier()  # all have listed what lacks before any saves a part
    order = np.concatenate([np.arange(start, stop) for start, stop in todo]) if todo else np.arange(0)
    data = loader(samples, Batches(order, batch_size), workers, fabric.device.type == "cuda")
    stream = iter(batches_of(fabric.setup_dataloaders(data, use_distributed_sampler=False)))
    model.eval()
    batches: list[tuple[int, float, float]] = []
    done = len(samples) - len(order)
    with tqdm(total=len(samples), initial=done, desc=title, disable=fabric.global_rank > 0) as bar:
        for place, (start, stop) in enumerate(todo):
            wanted = todo[place:] if whole else [(start, stop)]
            if not clock.allows(sum(b - a for a, b in wanted) * sum(_steady(batches))):
                return batches
            probs = {view: [] for view in parts.views}
            for _ in range(start, stop, batch_size):
                if not clock.allows(batch_size * sum(_steady(batches))):
                    return batches
                began = clock.now()
                images, _, index = next(stream)
                came = clock.now()
                for view, rows in probs.items():
                    rows.append(_probs(fabric, model, view_of(images, view)))
                batches.append((len(index), came - began, clock.now() - came))
                bar.update(len(index))
            parts.save(start, {view: np.concatenate(rows) for view, rows in probs.items()})
    return batches


def _steady(batches: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Seconds a sample of waiting and of looking, without the first batch, which pays for starting, if there are more.

    >>> _steady([(8, 60.0, 9.0), (8, 0.8, 1.6), (2, 0.2, 0.4)])
    (0.1, 0.2)
    """
    counts, waiting, looking = zip(*(batches[1:] or batches or [(1, 0.0, 0.0)]), strict=True)
    return sum(waiting) / sum(counts), sum(looking) / sum(counts)


def view_of(images: torch.Tensor | dict[str, torch.Tensor], view: str) -> torch.Tensor | dict[str, torch.Tensor]:
    """The view of a batch of images, or of images with their label images or cells, which turn with them."""
    if isinstance(images, dict):  # how many cells an image has stays as it is
        return {name: batch if batch.ndim == 1 else apply_view(batch, view) for name, batch in images.items()}
    return apply_view(images, view)


@torch.inference_mode()
def _probs(fabric: Fabric, model: nn.Module, images: torch.Tensor | dict[str, torch.Tensor]) -> np.ndarray:
    with fabric.autocast():
        return model(images)["probs"].float().cpu().numpy()


def _fingerprint(samples: Samples | Bags, identity: str) -> int:
    """A number that changes when the weights, the samples or how they are cropped change."""
    return zlib.crc32(json.dumps([identity, *samples.identity]).encode())


def _made_by(path: Path) -> int | None:
    """The fingerprint in a file of predictions; None where there is none to be read."""
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as saved:
            return int(saved["made_by"])
    except (*DAMAGED, KeyError):
        return None


def _parts_folder(file: Path) -> Path:
    """The folder of the parts of a file of predictions: one for all views of a seed."""
    return file.parent.parent / f".parts_{file.parent.name.split('_')[-1]}_{file.stem}"


class _Parts:
    """Runs of `size` samples of an unfinished prediction, each saved in a file of its own beside the final ones."""

    def __init__(self, file: Path, views: list[str], count: int, size: int, made_by: int):
        self.folder = _parts_folder(file)
        self.views = views
        self.bounds = [(start, min(start + size, count)) for start in range(0, count, size)]
        self.made_by = zlib.crc32(json.dumps([views, size]).encode(), made_by)

    def todo(self) -> list[tuple[int, int]]:
        return [(start, stop) for start, stop in self.bounds if _made_by(self._path(start)) != self.made_by]

    def save(self, start: int, probs: dict[str, np.ndarray]) -> None:
        with atomic(self._path(start)) as temporary:
            np.savez(temporary, made_by=self.made_by, **probs)

    def gather(self) -> dict[str, np.ndarray]:
        loaded = []
        for start, _ in self.bounds:
            with np.load(self._path(start), allow_pickle=False) as part:
                loaded.append({view: part[view] for view in self.views})
        return {view: np.concatenate([part[view] for part in loaded]) for view in self.views}

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:08d}.npz"


def _save_predictions(path: Path, ids: Sequence[str], probs: np.ndarray, made_by: int) -> None:
    if not np.isfinite(probs).all():
        row = int(np.argwhere(~np.isfinite(probs))[0][0])
        raise UserError(f"the network's prediction for {ids[row]} is not finite; choose another --predict_epoch")
    with atomic(path) as temporary:
        np.savez(temporary, ids=np.array(ids, dtype=str), probs=probs.astype(np.float32), made_by=made_by)
