"""The scores: what was reached beside the baselines, and each class."""

import numbers
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cells.table import read_table
from common.errors import UserError, some
from common.files import existing
from reporting.folder import Results
from reporting.html import Html, folded, number, section, table, tag

TITLE = "Scores per class"


class Score(NamedTuple):
    """A table of evaluate.py: what it is called, its file, its rows, the last of which is the mean."""

    name: str
    path: Path
    table: pd.DataFrame

    @property
    def column(self) -> str:
        """The column with the score."""
        return self.table.columns[1]

    @property
    def mean(self) -> float:
        """The score itself."""
        return float(self.table[self.column].iloc[-1])


class Scores(NamedTuple):
    """The score that counts, those of the same kind to compare it with in their order, and tables of other kinds."""

    main: Score
    steps: list[Score]
    others: list[Score]


def read_score(path: Path, name: str) -> Score:
    """A score table; UserError when it is none."""
    rows = read_table(path, {"Class": str})
    if len(rows) < 2 or len(rows.columns) < 2 or not pd.api.types.is_numeric_dtype(rows.iloc[:, 1]):
        raise UserError(f"{path} is no score table of evaluate.py: Class, the score, and a last row with the mean")
    return Score(name, path, rows)


def read_scores(results: Results, submissions: Sequence[str], names: Sequence[str]) -> Scores | None:
    """The scores of `submissions`, called `names`, the last of which counts; None where the folder has none.

    Without submissions all score tables of the folder: that of submission.csv counts, else the outermost one, of
    several the newest. Those of the same classes and score are its steps, worst first.
    """
    if submissions:
        if names and len(names) != len(submissions):
            raise UserError(f"--names has {len(names)} names for {len(submissions)} submissions")
        paths = [Path(path).with_name(f"score_{Path(path).stem}.csv") for path in submissions]
        names = names or [call(results.name(path)) for path in paths]
        found = [read_score(existing(path, f"the score of {own}"), name)
                 for path, own, name in zip(paths, submissions, names, strict=True)]  # fmt: skip
        main = found[-1]
        others = [read_score(path, results.name(path)) for path in results.files["score"] if path not in paths]
    else:
        found = [read_score(path, call(results.name(path))) for path in results.files["score"]]
        if not found:
            return None
        main = min(found, key=lambda score: _rank(score.path))
        others = []
    steps = [score for score in found if alike(score, main)]
    if not submissions:
        steps.sort(key=lambda score: (score is main, score.mean))
    return Scores(main, steps, others + [score for score in found if not alike(score, main)])


def _rank(path: Path) -> tuple:
    return len(path.parts), path.stem != "score_submission", -path.stat().st_mtime, path.name


def alike(one: Score, other: Score) -> bool:
    """Whether two tables have the same score of the same classes."""
    return one.column == other.column and one.table["Class"].tolist() == other.table["Class"].tolist()


def call(name: str) -> str:
    """What a score is called by its path: `steps/score_submission_image.csv` -> `steps/image`."""
    folder, _, file = name.rpartition("/")
    stem = file.removesuffix(".csv").removeprefix("score_").removeprefix("submission_").removeprefix("ensemble_")
    return "/".join(filter(None, [folder, stem]))


def result(scores: Scores, name: str, facts: Iterable[tuple[str, str]]) -> Html:
    """For the page's head: the score, called `name`, how far above the simplest step it is, and all steps as bars;
    without steps some facts about the run.
    """
    first, main = scores.steps[0], scores.main
    above = below = None
    if first is not main:
        gain = main.mean - first.mean
        above = tag("p", tag("strong", f"{gain:+.3f}".replace("-", "−")), f" against {first.name}", class_="gain")
        better = [score.name for score in scores.steps[1:] if score.mean > main.mean]
        below = tag("p", f"Below {some(better)}", class_="gain") if better else None
    big = tag("p", number(main.mean, 4), class_="big")
    known = [tag("div", tag("dt", what), tag("dd", fact)) for what, fact in facts]
    beside = ladder(scores) if above else tag("dl", *known)
    return tag("div", tag("div", big, tag("p", name), above, below), beside, class_="result")


def ladder(scores: Scores) -> Html:
    """A bar for each step, with its score; the last one counts."""
    rows = [
        tag("li", tag("span", score.name, class_="name"), bar(score.mean), number(score.mean, 4),
            class_="main" if score is scores.main else None)
        for score in scores.steps
    ]  # fmt: skip
    return tag("ol", *rows, class_="ladder")


def bar(value: float, marks: Sequence[float] = ()) -> Html:
    """A value in 0..1 as a bar, with others as ticks on it."""
    known = [float(np.clip(own, 0, 1)) if np.isfinite(own) else None for own in (value, *marks)]
    length = tag("i", style=f"width:{100 * known[0]:.1f}%") if known[0] is not None else None
    ticks = [tag("b", style=f"left:{100 * own:.1f}%") for own in known[1:] if own is not None]
    return tag("span", length, *ticks, class_="bar", aria_hidden="true")


def classes(scores: Scores, name: str) -> Html:
    """The section: a row a class with bars, the steps' scores, counts; other tables folded below it."""
    before = scores.steps[0] if len(scores.steps) > 1 and scores.steps[0] is not scores.main else None
    note = [f"{name}. Bar: {scores.main.name}", f"; tick: {before.name}." if before else "."]
    missing = scores.main.table[scores.main.column].isna().sum()
    note.append(f" {missing} classes have no truth to score against." if missing else "")
    others = [folded(f"Also scored: {score.name}", score_table(score, [score], None)) for score in scores.others]
    return section(TITLE, "".join(note), score_table(scores.main, scores.steps, before), *others)


def score_table(main: Score, steps: Sequence[Score], before: Score | None) -> Html:
    """The table of a score: bars, the values of `main` and of the other steps, and the further columns of `main`."""
    steps = [score for score in steps if score is not main]
    names = [tag("th", score.name, scope="col", class_="step") for score in [main, *steps]]
    head = ["Class", "", *(names if steps else [main.column]), *main.table.columns[2:]]
    rows = []
    for place, own in enumerate(main.table.itertuples(index=False)):
        marks = [before.table[main.column].iloc[place]] if before else []
        values = [score.table[main.column].iloc[place] for score in steps]
        bars = tag("td", bar(own[1], marks), class_="bars")
        further = [number(value) if isinstance(value, numbers.Real) else value for value in own[2:]]
        rows.append([own[0], bars, tag("td", number(own[1]), class_="own"), *map(number, values), *further])
    return table(head, rows, class_="numbers mean")
