"""Randomness without state: the same numbers for the same keys, whatever the order, batch size or workers."""

import zlib

import numpy as np


def rng(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator that depends on `seed` and `keys` (an epoch, an image's id, ...) alone."""
    numbers = [key if isinstance(key, int) else zlib.crc32(key.encode()) for key in keys]
    return np.random.default_rng([seed, *numbers])
