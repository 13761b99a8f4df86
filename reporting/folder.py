"""What a results folder holds, by the names that docs/formats.md gives its files."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from cells.table import KEY, read_header, read_table
from common.errors import UserError, some
from common.times import FILE
from engine.settings import read_settings

# Kind of file -> what its name is like. Where two fit, the first one holds.
NAMES = {
    "log": r"log\.csv", "raw": r"prob_.+\.npz", "table": r"probabilities_.+\.(csv|parquet)", "score": r"score_.+\.csv",
    "combined": r"ensemble_.+\.(csv|parquet)", "cells": r".+_cell\.(csv|parquet)", "folds": r"images\.csv",
    "left_out": r".+_left_out\.csv", "submission": r"submission.*\.csv", "times": re.escape(FILE), "store": r".+\.zip",
    "csv": r".+\.csv",
}  # fmt: skip
PATTERNS = {kind: re.compile(pattern) for kind, pattern in NAMES.items()}


class Run(NamedTuple):
    """A training run: its name and fold, its folder, its log and its settings (empty where there are none)."""

    name: str
    fold: str
    path: Path
    log: pd.DataFrame
    settings: dict


class Results:
    """The files of a results folder by kind (`NAMES`), each list from the outermost folders inwards, then by name."""

    def __init__(self, root: Path):
        self.root = root = root.resolve()  # so that every file has the folders of a run above it
        self.files: dict[str, list[Path]] = {kind: [] for kind in NAMES}
        self.stores: dict[Path, list[str]] = {}  # folders of crops -> the names of their shards
        for folder, below, names in os.walk(root):
            below[:] = sorted(name for name in below if not name.startswith("."))
            self._sort(Path(folder), sorted(name for name in names if not name.startswith(".")))
        for paths in self.files.values():
            paths.sort(key=lambda path: (len(path.parts), path))
        self.runs = [self._run(path) for path in self.files["log"] if (path.parent / "settings.json").is_file()]
        self.files["score"] = [path for path in self.files["score"] if "Class" in header(path)]
        self.files["combined"] = [path for path in self.files["combined"] if KEY[1] in header(path)]
        self.files["cells"] = [path for path in self.files["cells"] if {*KEY, "PredictionString"} <= set(header(path))]
        self.files["folds"] = [path for path in self.files["folds"] if {"ID", "Fold"} <= set(header(path))]

    def _sort(self, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            kind = next((kind for kind, pattern in PATTERNS.items() if pattern.fullmatch(name)), None)
            if kind == "store":
                self.stores.setdefault(folder, []).append(name)
            elif kind:
                self.files[kind].append(folder / name)

    def _run(self, path: Path) -> Run:
        log = read_table(path, dict.fromkeys(("epoch", "train_loss"), float))
        known = log.apply(pd.to_numeric, errors="coerce")
        words = known.columns[(known.isna() & log.notna() & (log != "")).any()]
        if len(words) or not len(log):
            wrong = f"the column {words[0]} holds other values than numbers" if len(words) else "there is no epoch"
            raise UserError(f"{path}: {wrong}")
        settings = read_settings(path.with_name("settings.json"))
        if not isinstance(settings, dict):
            raise UserError(f"{path.with_name('settings.json')} does not hold the settings of a run")
        return Run(path.parents[1].name, path.parent.name, path.parent, known, settings)

    def name(self, path: Path) -> str:
        """A file's path below the folder, or as it is."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def setting(self, name: str) -> str | None:
        """What all runs have as the flag `name`; None without runs. UserError when they differ."""
        given = [run.settings.get(name) for run in self.runs]
        values = {None if own is None else str(own) for own in given}
        if len(values) > 1:
            raise UserError(f"the runs in {self.root} have --{name} {some(sorted(map(str, values)))}; give one of them")
        return values.pop() if values else None


def header(path: Path) -> list[str]:
    """The columns of a table; none of a file that is not one."""
    try:
        return read_header(path, "table")
    except UserError:
        return []


def columns(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Those of the columns that a table has, without reading the masks: a training set's are a gigabyte."""
    names = [name for name in names if name in header(path)]
    if path.suffix == ".parquet":
        return pd.read_parquet(path, columns=names)
    options = pa.csv.ConvertOptions(include_columns=names, column_types={"ImageID": pa.string(), "ID": pa.string()})
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    try:
        return pa.csv.read_csv(path, parse_options=parse, convert_options=options).to_pandas()
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
