"""Training images and cells from outside of the folds: they are always trained on and never validate."""

from collections.abc import Sequence

import pandas as pd

from cells.groups import read_groups
from cells.table import match_rows, read_probabilities
from common.errors import UserError, some
from competitions import Competition


def add_external(
    train: pd.DataFrame, held_out: Sequence[str], path: str, competition: Competition, groups: str | None = None
) -> pd.DataFrame:
    """The training images of a fold (columns ID, Label) and, below them, those of the external table at `path`.

    held_out: the ids of the validation and test images. groups: duplicates.csv over both sets (findduplicates.py with
    two --metadata), by which near duplicates of one held out are left out. UserError when an external image is one of
    the split's own, or `groups` lacks an image.
    """
    external = competition.read_labels(path)[["ID", "Label"]]
    own = external["ID"].isin([*train["ID"], *held_out])
    if own.any():
        both = some(external["ID"][own])
        raise UserError(f"{path} has {both} in common with the split; an external image has no fold")
    if groups is not None:
        external = external[~_near(external["ID"], held_out, groups)]
    return pd.concat([train, external], ignore_index=True)


def add_pseudo(train: pd.DataFrame, held_out: Sequence[str], path: str, classes: Sequence[str]) -> pd.DataFrame:
    """The training images of a fold (columns ID, Label), or its cells (ImageID besides), and below them what the
    probabilities table at `path` has: images or cells without labels, whose targets are in it.

    held_out: the ids of the validation and test images. UserError when one of the images is the split's own.
    """
    table = read_probabilities(path, classes)
    own = table["ImageID"].isin([*train["ImageID" if "ImageID" in train else "ID"], *held_out])
    if own.any():
        both = some(table["ImageID"][own].unique())
        raise UserError(f"--pseudo_labels {path} has {both} in common with the split; --soft_labels is for its images")
    if "ImageID" in train:
        ids = table["ImageID"] + "+" + table["CellID"].astype(str)
        new = pd.DataFrame({"ID": ids, "ImageID": table["ImageID"], "Label": ""})
    else:
        new = pd.DataFrame({"ID": table["ImageID"].unique(), "Label": ""})
    return pd.concat([train, new], ignore_index=True)


def _near(images: pd.Series, held_out: Sequence[str], path: str) -> pd.Series:
    """Which of the images are in a cluster with one that is held out."""
    groups = read_groups(path)

    def clusters(ids: Sequence[str]) -> pd.Series:
        rows = match_rows(pd.DataFrame({"ID": ids}), groups, ["ID"], path, exact=False)
        return groups["Cluster"].iloc[rows]

    return pd.Series(clusters(images).isin(clusters(held_out)).to_numpy(), images.index)
