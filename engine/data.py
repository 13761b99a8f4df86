"""Samples for training and prediction: deterministic by seed, whatever the batch size or the number of workers."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from common.errors import UserError, some
from common.seeds import rng


class Item(NamedTuple):
    """What a sample is asked for by; turn: how often the epoch had it before, for each time it is changed anew."""

    epoch: int
    index: int
    turn: int = 0


class Reader(Protocol):
    """Anything that gives the image of a key: (height, width, channels) uint8, about `size` pixels a side."""

    def __call__(self, key: str, size: int) -> np.ndarray: ...

    def state(self, keys: Sequence[str]) -> list[int]:
        """Numbers that change when one of the images does."""


@dataclass
class Samples(Dataset):
    """Images by key, changed by `augment` with randomness from (seed, epoch, key, turn) alone.

    An item is asked for by an `Item` and is (image (C, crop_size, crop_size) uint8, target (K,), index).
    targets: (N, K) float32, or None where there are none.
    """

    reader: Reader
    keys: Sequence[str]
    targets: np.ndarray | None
    augment: Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
    img_size: int
    crop_size: int
    seed: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rows(self) -> Sequence[str]:
        """The ids of a prediction's rows: one a sample here, one a cell where a sample is an image with its cells."""
        return self.keys

    @property
    def identity(self) -> list:
        """What a prediction of these samples depends on besides the weights, in words that JSON knows."""
        settings = [self.img_size, self.crop_size, self.seed, repr(self.augment)]
        return [*settings, list(self.rows), self.reader.state(self.keys)]

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, torch.Tensor, int]:
        epoch, index, turn = Item(*item)
        key = self.keys[index]
        image = self.augment(self.reader(key, self.img_size), self.crop_size, rng(self.seed, epoch, key, turn))
        return channels_first(image), self.target(index), index

    def target(self, index: int) -> torch.Tensor:
        """A sample's target, empty where there are none."""
        return torch.empty(0) if self.targets is None else torch.from_numpy(self.targets[index])


def channels_first(image: np.ndarray) -> torch.Tensor:
    """An image (height, width, channels), or (height, width), as the networks take it: (channels, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1)))


@dataclass
class Batches:
    """The items of one epoch in a given order, in batches, from batch `start` on; each rank gets its share."""

    order: np.ndarray
    batch_size: int
    epoch: int = 0
    start: int = 0
    drop_last: bool = False
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        step = self.batch_size * self.world
        # A shorter last batch is dropped in training (batch norm fails on one sample), unless it is the only one.
        whole = len(self.order) // step
        return (whole if self.drop_last and whole else -(-len(self.order) // step)) - self.start

    def __iter__(self) -> Iterator[list[Item]]:
        step = self.batch_size * self.world
        items = np.stack([self.order, pd.Series(self.order).groupby(self.order).cumcount()], axis=1)
        for batch in range(self.start, self.start + len(self)):
            share = items[batch * step : (batch + 1) * step][self.rank :: self.world]
            yield [Item(self.epoch, *pair) for pair in share.tolist()]


def epoch_order(count: int, seed: int, epoch: int, weights: np.ndarray | None = None, draws: int = 0) -> np.ndarray:
    """The order of an epoch's samples: a shuffle of all, or `draws` of them with probability by `weights`."""
    generator = rng(seed, "order", epoch)
    if draws:
        return generator.choice(count, size=draws, p=weights / weights.sum())
    return generator.permutation(count)


def balanced_weights(targets: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Sampling weights (N,): each sample counts by its rarest class, 1 / (number of samples of that class) to `power`:
    1 draws each class as often, 0 each sample.

    A sample is of a class from a (soft) target of .5 on. Kept within 1/100 of the largest, so that one rare image does
    not fill the epoch; where no sample is of any class all count alike.
    """
    has = targets >= 0.5
    weights = np.where(has, 1 / np.maximum(has.sum(0), 1), 0).max(1)
    if not has.any():
        return np.ones(len(targets))
    return np.maximum(weights, weights.max() / 100) ** power


def loader(samples: Dataset, batches: Batches, workers: int, pin_memory: bool = False) -> DataLoader:
    """A DataLoader over the batches; decoding and augmentation run in `workers` processes (0: in this one).

    `samples.collate`, where there is one, makes a batch of its items.
    """
    return DataLoader(
        Watched(samples, workers) if workers else samples, batch_sampler=batches, num_workers=workers,
        pin_memory=pin_memory, worker_init_fn=_one_thread, prefetch_factor=4 if workers else None,
        collate_fn=getattr(samples, "collate", None),
    )  # fmt: skip


class Watched(Dataset):
    """Samples that note which one each reading process is at, so that one that dies can be named."""

    def __init__(self, samples: Dataset, workers: int):
        self.samples = samples
        self.places = torch.full((workers, 2), -1).share_memory_()  # process, index

    def __getitem__(self, item: tuple[int, int]) -> tuple:
        self.places[get_worker_info().id] = torch.tensor([os.getpid(), item[1]])
        return self.samples[item]

    def last_read(self, processes: Sequence[int]) -> str:
        """The keys of the samples that these processes began last."""
        return some([self.samples.keys[index] for process, index in self.places.tolist() if process in processes])


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def batches_of(data: DataLoader) -> Iterator:
    """Iterate a loader; an error of our own in a worker process, or its death, comes out as one sentence."""
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        for batch in data:
            if signal.getsignal(signal.SIGCHLD) != handler:
                signal.signal(signal.SIGCHLD, handler)  # torch's would raise wherever the caller is
            yield batch
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].split("Error: ", 1)[-1]) from None
    except RuntimeError as error:
        died = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        if not died:
            raise
        images = data.dataset.last_read([int(process) for process in died[1].split(",")])
        raise UserError(
            f"a process that reads images was killed while it read {images}; was there enough memory? Run the same "
            "command again, with fewer --workers, to go on"
        ) from None
