"""Images that belong together, as findduplicates.py or the user says: the table, and folds that must not part them."""

from pathlib import Path

import numpy as np
import pandas as pd

from cells.table import read_table
from common.errors import UserError, some


def read_groups(path: str | Path, keep: bool = False) -> pd.DataFrame:
    """duplicates.csv: ID and Cluster as text, unique in ID; with `keep`, a column Keep of 0 and 1 too."""
    columns = {"ID": str, "Cluster": str} | ({"Keep": int} if keep else {})
    groups = read_table(path, columns, key=["ID"])
    if keep and not groups["Keep"].isin([0, 1]).all():
        row = int(np.flatnonzero(~groups["Keep"].isin([0, 1]))[0])
        raise UserError(f"{path} row {row + 2}: Keep is {groups['Keep'].iloc[row]}; 0 or 1 are right")
    return groups


def check_folds(folds: pd.DataFrame, group: str, name: str) -> None:
    """UserError when rows of a table (columns Fold and `group`) with the same group are in several folds.

    group: "Cluster" of images.csv made with --groups, "ImageID" of cells.csv. name: the table's file, for the message.
    """
    spread = folds.drop_duplicates([group, "Fold"])
    leaks = spread.loc[spread[group].duplicated(keep=False)]
    if len(leaks):
        first = leaks[group].iloc[0]
        where = some(sorted(leaks.loc[leaks[group] == first, "Fold"]), 20)
        raise UserError(
            f"{name} leaks: {group} {first} is in the folds {where}, and {leaks[group].nunique()} in all are in more "
            "than one; makefolds.py keeps them together"
        )
