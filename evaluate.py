"""Score a submission against the truth: a table on the screen, the same as CSV, and a picture.

    python evaluate.py --competition hpa --submission OUT/submission.csv --truth DATA/truth.csv --out_path OUT

Writes `score_<submission name>.csv` (a row a class and the mean) and `score_<submission name>.png` to --out_path,
which without the flag is the submission's folder. Several submissions are compared, a row each, under their --names.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pandas as pd

import competitions
from cells.table import write_table
from common.errors import UserError, run
from common.files import atomic, existing


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--submission", required=True, nargs="+", help="submissions as ensemble.py writes them")
    parser.add_argument("--names", nargs="+", help="what to call them; default: their paths")
    parser.add_argument("--truth", required=True, help="truth table: a cells table with a further column Label")
    parser.add_argument("--out_path", help="folder for the table and the picture")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Score the submission, show and write the result."""
    args = get_args_parser().parse_args(argv)
    competition = competitions.get(args.competition, args.classes)
    names = args.names or args.submission
    if len(names) != len(args.submission):
        raise UserError(f"--names has {len(names)} names for {len(args.submission)} submissions")
    if args.out_path and len({Path(path).stem for path in args.submission}) < len(names):
        raise UserError("two submissions of one name cannot both be scored to --out_path; leave it out")
    truth = existing(args.truth, "--truth")
    tables = [score(existing(path, "--submission"), truth, competition, args.out_path) for path in args.submission]
    if len(tables) == 1:
        show(tables[0], competition.SCORE)
    else:
        means = [table.iloc[-1, 1] for table in tables]
        compare(pd.DataFrame({"Submission": names, competition.SCORE: means}))


def score(submission: Path, truth: Path, competition: ModuleType, out_path: str | None) -> pd.DataFrame:
    """Score one submission and write its table and picture; returns the table."""
    table = competition.score(submission, truth)
    out = Path(out_path) if out_path else submission.parent
    write_table(table, out / f"score_{submission.stem}.csv")
    draw(table, competition.SCORE, out / f"score_{submission.stem}.png")
    return table


def compare(table: pd.DataFrame) -> None:
    """Print the submissions' scores, a row each."""
    width = max(map(len, table.iloc[:, 0]))
    for name, value in table.itertuples(index=False):
        print(f"{name:{width}}  {value:.4f}")  # noqa: T201


def show(table: pd.DataFrame, title: str) -> None:
    """Print a score table: `Class`, the score, further columns; the last row has the mean."""
    text = table.to_string(index=False, na_rep="-", float_format="{:.4f}".format, justify="right")
    print(f"{text}\n{title}: {table.iloc[-1, 1]:.4f}")  # noqa: T201


def draw(table: pd.DataFrame, title: str, path: Path) -> None:
    """Draw a score table as a bar a class, with the mean as a line; a class without truths has no bar."""
    from matplotlib.figure import Figure  # a second to import, which the scripts that only use `show` need not wait

    classes, mean, name = table.iloc[:-1], table.iloc[-1, 1], table.columns[1]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(classes)), layout="constrained")
    axes = figure.subplots()
    axes.barh(classes["Class"], classes[name].fillna(0), color="tab:green")
    for place, (value, truths) in enumerate(zip(classes[name], classes["Truths"], strict=True)):
        note = "no truth" if truths == 0 else f"{value:.3f}  ({truths})"
        axes.text((0 if truths == 0 else value) + 0.01, place, note, va="center", fontsize=8)
    axes.axvline(mean, color="black", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1.12), title=f"{title}: {mean:.4f}", xlabel=f"{name} (number of true cells)")
    axes.invert_yaxis()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)


if __name__ == "__main__":
    run(main)
