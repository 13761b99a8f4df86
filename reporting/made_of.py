"""What made the result: networks with the weights that were used, their settings, the files, and what was left out."""

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cells.table import read_table
from common.files import digest
from reporting.folder import Results, Run, header
from reporting.html import Html, folded, number, section, table, tag
from reporting.pipeline import duration
from reporting.times import run_time
from reporting.training import best_epoch, score_of

TITLE = "Made of"
KINDS = "cells", "folds", "table", "combined", "submission", "score", "times"  # of files that are listed
FILES = 60  # listed at most


def made_of(results: Results) -> Html:
    """The section."""
    parts = [models_table(results)] if results.runs else []
    if results.runs:
        parts.append(folded("All settings of the runs", settings_table(results.runs)))
    parts.append(folded("Files", files_table(results)))
    note = "No training run is in this folder."
    if results.runs:
        note = ("Weights by the first digits of their SHA-256: those that were predicted with; of other runs, such as "
            "finders, the best epoch's and, where there is one, the mean swa.pth.")  # fmt: skip
    return section(TITLE, note, *parts, *left_out(results))


def models_table(results: Results) -> Html:
    """A row a network: what it is, how well it did, how long it took, and its weights."""
    rows = []
    for run in results.runs:
        score = score_of([run])
        best = best_epoch(run.log, score)
        took = run_time(run)
        value = run.log[score].iloc[best] if best >= 0 else float("nan")
        rows.append([
            f"{run.name}/{run.fold}", text(run.settings.get("arch", "–")), len(run.log),
            int(run.log["epoch"].iloc[best]) if best >= 0 else "–", text(score or "–"), number(value),
            duration(took) if took else "–", *weights_of(results, run),
        ])  # fmt: skip
    head = ["Network", text("Architecture", "th"), "Epochs", "Best", text("Judged by", "th"), "Score", "Time",
            text("Weights", "th"), "MB", text("SHA-256", "th")]  # fmt: skip
    return table(head, rows, class_="numbers")


def text(content: Any, name: str = "td") -> Html:
    """A cell of a table of numbers that is text."""
    return tag(name, content, class_="text", scope="col" if name == "th" else None)


def weights_of(results: Results, run: Run) -> tuple:
    """The checkpoints that were predicted with, else the best one and the mean (which of these a finder's --weights
    were is not known here): names, size in MB of the first, digests.
    """
    used = {path.parent.parent.name.removeprefix("epoch_") for path in results.files["raw"]
            if path.parents[2].name == run.fold and path.parents[3].name == run.name}  # fmt: skip
    paths = [run.path / f"{epoch}.pth" for epoch in sorted(used)] or [run.path / "best.pth", run.path / "swa.pth"]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        return text("not here"), "–", text("–")
    names = ", ".join(path.name for path in paths)
    digests = tag("code", ", ".join(digest(path)[:8] for path in paths))
    return text(names), number(paths[0].stat().st_size / 1e6, 1), text(digests)


def settings_table(runs: Sequence[Run]) -> Html:
    """A row a flag, a column a run; flags in which runs differ come first, in bold."""
    flags = sorted({flag for run in runs for flag in run.settings})
    values = {flag: [run.settings.get(flag) for run in runs] for flag in flags}
    same = {flag: all(value == own[0] for value in own) for flag, own in values.items()}
    rows = [[tag("th", f"--{flag}", scope="row", class_=None if same[flag] else "differs"), *map(str, values[flag])]
            for flag in sorted(flags, key=lambda flag: same[flag])]  # fmt: skip
    return table(["Flag", *(f"{run.name}/{run.fold}" for run in runs)], rows, class_="settings")


def files_table(results: Results) -> Html:
    """The files of the later stages, with their sizes and dates."""
    paths = [path for kind in KINDS for path in results.files[kind]]
    rows = [[results.name(path), number(path.stat().st_size / 1e6, 2), date(path)] for path in paths[:FILES]]
    if len(paths) > FILES:
        rows.append([f"and {len(paths) - FILES} more", "", ""])
    return table(["File", "MB", "Date (UTC)"], rows, class_="files")


def date(path: Path) -> str:
    """When a file was written."""
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d %H:%M")


def left_out(results: Results) -> list[Html]:
    """What infer.py left out, as it listed it."""
    tables = [(path, read_table(path, dict.fromkeys(header(path), str))) for path in results.files["left_out"]]
    return [
        tag("div", tag("h3", "Left out"), tag("p", results.name(path), class_="note"),
            table(list(own), own.to_numpy().tolist()))
        for path, own in tables
    ]  # fmt: skip
