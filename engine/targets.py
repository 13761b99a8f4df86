"""What samples are trained towards beyond their image's labels: soft labels, and labels that do not count."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cells.table import KEY, match_rows, read_probabilities, read_table
from common.errors import UserError, some
from engine.data import Samples
from engine.samples import CropReader, split_key


def soften(
    samples: Samples, path: str, classes: Sequence[str], flag: str = "--soft_labels", which: np.ndarray | None = None
) -> None:
    """Replace the targets of the samples `which` (N,) bool, of all without it, by the rows of a probabilities table, in
    place. UserError when such a sample has no row. flag: what named the table.
    """
    table = read_probabilities(path, classes)
    which = np.ones(len(samples.targets), bool) if which is None else which
    keys = pd.DataFrame(image_and_cell(samples), columns=KEY)[which]
    rows = match_rows(keys, table, KEY, f"{flag} {path}", exact=False)
    samples.targets[which] = table[list(classes)].to_numpy(np.float32)[rows]


def read_mask(path: str, classes: Sequence[str]) -> pd.DataFrame:
    """A table of the labels that count, indexed by ID, one column a class: --labelmask.

    Columns ID (an image's, or `<ImageID>+<CellID>`) and one a class: 1 where the label counts, 0 where it is unknown.
    """
    table = read_table(path, {"ID": str, **dict.fromkeys(classes, int)}, key=["ID"])
    bad = np.argwhere(~np.isin(table[list(classes)], (0, 1)))
    if len(bad):
        row, column = bad[0]
        value = table[classes[column]].iloc[row]
        raise UserError(f"{path} row {row + 2}, column {classes[column]}: {value} must be 1 (it counts) or 0 (unknown)")
    return table.set_index("ID")[list(classes)].astype(bool)


def mask_labels(samples: Samples, mask: pd.DataFrame) -> int:
    """Make the targets that do not count NaN, in place; returns the number of samples that `mask` (read_mask) names.

    A cell's own row goes before its image's; a sample without a row keeps all its labels.
    """
    own = mask.index.get_indexer(samples.keys)
    rows = np.where(own >= 0, own, mask.index.get_indexer([image for image, _ in image_and_cell(samples)]))
    named = rows >= 0
    counts = mask.to_numpy()[rows[named]]
    samples.targets[named] = np.where(counts, samples.targets[named], np.nan)
    return int(named.sum())


def image_and_cell(samples: Samples) -> list[tuple[str, int]]:
    """The ImageID and CellID of each sample; CellID 0 is the whole image."""
    cells = isinstance(samples.reader, CropReader)
    return [split_key(key) if cells else (key, 0) for key in samples.keys]


def apply_targets(
    train: Samples, valid: Samples, soft: str | None, pseudo: str | None, mask: str | None, classes: Sequence[str]
) -> None:
    """The flags --soft_labels and --pseudo_labels (training samples only) and --labelmask (validation too), where they
    are given. The soft labels are those of the split's samples, the pseudo-labels those of the others.
    """
    added = np.zeros(len(train.targets), bool)
    if pseudo:
        images = pd.Series([image for image, _ in image_and_cell(train)])
        added = images.isin(read_probabilities(pseudo, classes)["ImageID"]).to_numpy()
        if not added.any():
            raise UserError(f"--pseudo_labels {pseudo}: none of its images is in --dataset; name their dataset, too")
        soften(train, pseudo, classes, "--pseudo_labels", added)
    if soft:
        soften(train, soft, classes, which=~added)
    if mask:
        table = read_mask(mask, classes)
        if not mask_labels(train, table) + mask_labels(valid, table):
            there = some(table.index) or "none"
            raise UserError(f"--labelmask {mask} names no sample (such as {train.keys[0]}): its IDs are {there}")
