"""The road that was run, as a row of stages with what each made and how long it took."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from common.errors import some
from engine.clock import show_duration
from reporting.folder import Results, columns
from reporting.html import Html, folded, join, section, table, tag
from reporting.times import Command, Spent, spent

TITLE = "Pipeline"
ONCE = "Submit", "ensemble.py"  # whose time "Combine" has


Made = tuple[str, Sequence[str]]  # how much a stage made, and of what, in lines


class Stage(NamedTuple):
    """A stage of the road: what it does, the script, how much it made and of what in lines, and its time if known."""

    title: str
    script: str
    fact: str
    details: Sequence[str]
    spent: Spent | None


def stages(
    results: Results, commands: Sequence[Command], score: tuple[str, float] | None, submission: str | None
) -> list[Stage]:
    """The stages of which the folder has something, in their order; score: what it is called, and the value;
    submission: the one that counts, if not the outermost.
    """
    made = [
        ("Find the cells", "segment.py", cells_made(results)),
        ("Make folds", "makefolds.py", folds_made(results)),
        ("Train", "train.py", runs_made(results)),
        ("Predict", predictor(commands), predictions_made(results)),
        ("Average", "convertpredictions.py", files_made(results, "table", "table of probabilities", "tables")),
        ("Combine", "ensemble.py", files_made(results, "combined", "combination", "combinations")),
        ("Submit", "ensemble.py" if results.files["combined"] else "submit.py", submission_made(results, submission)),
        ("Score", "evaluate.py", (f"{score[1]:.4f}", [score[0]]) if score else None),
    ]
    return [
        Stage(title, script, *what, None if (title, script) == ONCE else spent(results, commands, script))
        for title, script, what in made
        if what
    ]


def predictor(commands: Sequence[Command]) -> str:
    """What made the predictions: test.py, or infer.py, which also finds the test images' cells and combines."""
    scripts = {command.words[0] for command in commands}
    return "infer.py" if "infer.py" in scripts and "test.py" not in scripts else "test.py"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "fold"), plural(1200, "cell")
    ('1 fold', '1,200 cells')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def cells_made(results: Results) -> Made | None:
    """How many cells were found in how many images of each cells table."""
    total, parts = 0, []
    stems = [path.stem for path in results.files["cells"]]
    for path in results.files["cells"]:
        own = columns(path, ["ImageID", "keep"])
        kept = own[own["keep"] != 0] if "keep" in own else own
        total += len(kept)
        images = plural(own["ImageID"].nunique(), "image")
        dropped = f", {len(own) - len(kept):,} at borders dropped" if len(own) > len(kept) else ""
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}"
        parts.append(f"{name.removesuffix('_cell')}: {len(kept):,} in {images}{dropped}")
    return (plural(total, "cell"), parts) if parts else None


def folds_made(results: Results) -> Made | None:
    """How many folds of how many images."""
    tables = {results.name(path.parent): columns(path, ["Fold"]) for path in results.files["folds"]}
    parts = [f"{name}: {plural(len(own), 'image')}" for name, own in tables.items()]
    return (plural(sum(own["Fold"].nunique() for own in tables.values()), "fold"), parts) if parts else None


def runs_made(results: Results) -> Made | None:
    """How many networks were trained for how many epochs."""
    names = dict.fromkeys(run.name for run in results.runs)
    epochs = sum(len(run.log) for run in results.runs)
    return (plural(len(results.runs), "network"), [plural(epochs, "epoch"), ", ".join(names)]) if names else None


def predictions_made(results: Results) -> Made | None:
    """How many views were predicted, and with how many networks."""
    paths = results.files["raw"]
    views = {path.parent.name.rpartition("_")[0] for path in paths}
    networks = {path.parents[2] for path in paths}
    details = f"{plural(len(networks), 'network')}, {plural(len(views), 'view')}"
    return (plural(len(paths), "prediction"), [details]) if paths else None


def files_made(results: Results, kind: str, one: str, many: str) -> Made | None:
    """How many files of a kind, and what they are called."""
    paths = results.files[kind]
    names = list(dict.fromkeys(path.stem.partition("_")[2] for path in paths))
    return (plural(len(paths), one, many), [some(names, 4)]) if names else None


def submission_made(results: Results, submission: str | None) -> Made | None:
    """The submission's size."""
    path = Path(submission) if submission else next(iter(results.files["submission"]), None)
    if path is None or not path.is_file():
        return None
    size = path.stat().st_size
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB", [results.name(path)]


def pipeline(parts: Sequence[Stage], commands: Sequence[Command]) -> Html:
    """The section: the stages as a picture; the commands, where their times are noted, folded below."""
    known = [stage.spent for stage in parts if stage.spent]
    note = " ".join(filter(None, [time_note(known), missing_note(parts)]))
    longest = max((own.seconds for own in known), default=1) or 1
    boxes = [box(stage, longest) for stage in parts]
    listed = folded(plural(len(commands), "command"), command_table(commands)) if commands else None
    return section(TITLE, note, tag("ol", *boxes, class_="road"), together(parts, commands), listed)


def together(parts: Sequence[Stage], commands: Sequence[Command]) -> Html | None:
    """The time of all stages and of the commands that are none of them, such as the drawing of pictures."""
    known = [stage.spent for stage in parts if stage.spent]
    others: dict[str, float] = {}
    for own in commands:
        if own.words[0] not in {stage.script for stage in parts}:
            others[own.words[0]] = others.get(own.words[0], 0) + own.seconds
    if not known and not others:
        return None
    total = Spent(sum(own.seconds for own in known) + sum(others.values()), any(own.guessed for own in known))
    named = ", ".join(f"{name} {show_duration(seconds)}" for name, seconds in others.items())
    named = f", with {named}" if named else None
    return tag("p", "Together ", tag("strong", duration(total)), named, class_="together")


def time_note(known: Sequence[Spent]) -> str:
    """Where the times come from."""
    if not known:
        return "No time of any stage is known."
    if any(own.guessed for own in known):
        return "≈: guessed from the dates of the files, pauses included; common/times.py says how to have exact ones."
    return "Times as the commands noted them; commands that were killed noted none."


def missing_note(parts: Sequence[Stage]) -> str:
    """Which scripts of the road left nothing here."""
    road = {
        "Find the cells": "segment.py", "Make folds": "makefolds.py", "Train": "train.py", "Predict": "test.py",
        "Average": "convertpredictions.py", "Combine": "ensemble.py", "Score": "evaluate.py",
    }  # fmt: skip
    missing = [script for title, script in road.items() if title not in {stage.title for stage in parts}]
    return f"Nothing of {', '.join(missing)} is in this folder." if missing else ""


def box(stage: Stage, longest: float) -> Html:
    """A stage of the picture."""
    own = stage.spent
    clock = tag("p", duration(own), class_="time", style=f"--t:{own.seconds / longest:.3f}") if own else None
    return tag("li", tag("h3", stage.title), tag("code", stage.script), tag("p", stage.fact, class_="fact"),
               *(tag("p", line, class_="details") for line in stage.details), clock)  # fmt: skip


def duration(own: Spent) -> Html:
    """A time in words, with all its digits for machines."""
    return tag("data", ("≈ " if own.guessed else "") + show_duration(own.seconds), value=round(own.seconds, 3))


def command_table(commands: Sequence[Command]) -> Html:
    """The commands in their order, each with its time; failed ones with their exit code."""
    rows = []
    for own in commands:
        began = pd.Timestamp(own.began, unit="s", tz="UTC").strftime("%Y-%m-%d %H:%M:%S")
        words = tag("code", " ".join(own.words))
        code = None if own.code == 0 else f" exit code {own.code}"
        rows.append([began, duration(Spent(own.seconds, False)), join([words, code])])
    return table(["Began (UTC)", "Took", "Command"], rows, class_="commands")
