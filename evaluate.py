"""Score a submission against the truth: a table on the screen, the same as CSV, and a picture.

    python evaluate.py --competition hpa --submission OUT/submission.csv --truth DATA/truth.csv --out_path OUT

Writes `score_<submission name>.csv` (a row a class and the mean) and `score_<submission name>.png` to --out_path,
which without the flag is the submission's folder. Several submissions are compared, a row each, under their --names.

    python evaluate.py --competition cytologia --classes RBC,WBC,Platelets --truth valid.csv \\
        --cell_meta_csv_path META/valid_cell.csv --probabilities OUT/ensemble_cells.csv

With a cells table in place of a submission, boxes are scored whatever the competition's own score is (hpa has no truth
of boxes): COCO's AP and AP50 of each class (confidence = the finder's score x the class probability) and of finding
cells of any class, and how many true centres are found with 1, 3 and 10 detections a true cell. Without --probabilities
the finder's classes count, and a finder that knows none is scored for cells of any class alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from cells.boxes import best_match, iou
from cells.table import BOX, CELL_COLUMNS, KEY, certain, match_rows, read_probabilities, read_table, write_table
from common.errors import UserError, run
from common.figures import save_figure
from common.files import existing, sole_writer
from common.say import say
from competitions import Competition
from metrics.box_map import ap_table, centre_recall
from metrics.classification import macro_f1


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--submission", nargs="+", help="submissions as ensemble.py writes them")
    parser.add_argument("--cell_meta_csv_path", help="a cells table, in place of a submission: score its boxes")
    parser.add_argument("--probabilities", help="with a cells table: the classes' probabilities, ensemble_<name>.csv")
    parser.add_argument("--name", help="with a cells table: score_<name>.csv; default: boxes")
    parser.add_argument("--names", nargs="+", help="what to call submissions; default: their paths")
    parser.add_argument("--truth", help="a cells table with a column Label (hpa), a table as train.csv, or "
                        "a fold's folder (pannuke)")  # fmt: skip
    parser.add_argument("--root_dir", help="neurons: the images' folder, for a truth that does not give their sizes; "
        "or without a truth, to check a submission alone")  # fmt: skip
    parser.add_argument("--out_path", help="folder for the table and the picture")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Score the submission, show and write the result."""
    args = get_args_parser().parse_args(argv)
    competition = competitions.get(args.competition, args.classes)
    if bool(args.submission) == bool(args.cell_meta_csv_path):
        raise UserError("give either --submission or --cell_meta_csv_path, which says what to score")
    unused = ("names",) if args.cell_meta_csv_path else ("probabilities", "name")
    for flag in unused:
        if getattr(args, flag) is not None:
            kind = "submissions" if args.cell_meta_csv_path else "a cells table"
            raise UserError(f"--{flag} is for {kind}; leave it out")
    if not args.truth:
        check_alone(args, competition)
        return
    if args.cell_meta_csv_path:
        score_boxes(args, competition)
        return
    names = args.names or args.submission
    if len(names) != len(args.submission):
        raise UserError(f"--names has {len(names)} names for {len(args.submission)} submissions")
    if args.out_path and len({Path(path).stem for path in args.submission}) < len(names):
        raise UserError("two submissions of one name cannot both be scored to --out_path; leave it out")
    truth = existing(args.truth, "--truth")
    tables = [score(existing(path, "--submission"), truth, competition, args) for path in args.submission]
    if len(tables) == 1:
        show(tables[0], competition.SCORE)
    else:
        means = [table.iloc[-1, 1] for table in tables]
        compare(pd.DataFrame({"Submission": names, competition.SCORE: means}))


def check_alone(args: argparse.Namespace, competition: Competition) -> None:
    """Say what is in submissions that are right in form; UserError when one is not."""
    if not (args.submission and args.root_dir and hasattr(competition, "check_submission")):
        raise UserError("--truth is missing; without it only submissions of neurons can be checked, with --root_dir")
    for path in args.submission:
        table = competition.check_submission(existing(path, "--submission"), args.root_dir)
        say(f"{table.to_string(index=False)}\n{path} is right in form: {table['Cells'].sum()} cells")


def score(submission: Path, truth: Path, competition: Competition, args: argparse.Namespace) -> pd.DataFrame:
    """Score one submission and write its table and picture; returns the table."""
    table = competition.score(submission, truth, root=args.root_dir)
    out = Path(args.out_path) if args.out_path else submission.parent
    with sole_writer(out):
        write_table(table, out / f"score_{submission.stem}.csv")
        draw(table, competition.SCORE, out / f"score_{submission.stem}.png")
    return table


def score_boxes(args: argparse.Namespace, competition: Competition) -> None:
    """Score the boxes of a cells table; show and write the result."""
    classes = competition.CLASSES
    truth = competition.read_cells(existing(args.truth, "--truth"), root=args.root_dir)
    columns = {**CELL_COLUMNS, **dict.fromkeys(BOX, float), "score": float}
    cells = read_table(args.cell_meta_csv_path, columns, key=KEY, optional={"Label": str})
    unknown = cells["ImageID"][~cells["ImageID"].isin(competition.read_labels(args.truth)["ID"])]
    if len(unknown):
        raise UserError(f"{args.cell_meta_csv_path} has the image {unknown.iloc[0]}, which {args.truth} lacks")
    truth = truth.assign(**{"class": truth["Label"].astype(np.int64)})
    every = detections(cells, args.cell_meta_csv_path, args.probabilities, classes)
    same = [part.assign(**{"class": 0}) for part in (truth, cells)]
    table = ap_table(("any class",), *same, competition.MAX_DETECTIONS)
    if every is not None:
        own = ap_table(classes, truth, every, competition.MAX_DETECTIONS)
        table = pd.concat([table.iloc[:1], own], ignore_index=True)
    out = Path(args.out_path or Path(args.cell_meta_csv_path).parent)
    name = args.name or "boxes"
    with sole_writer(out):
        write_table(table, out / f"score_{name}.csv")
        draw(table, "COCO mAP@[.50:.05:.95]", out / f"score_{name}.png")
    show(table, "COCO mAP@[.50:.05:.95]")
    last, found = table.iloc[-1], centre_recall(truth, cells)
    say(f"mAP50: {last['AP50']:.4f}; any class AP50: {table['AP50'].iloc[0]:.4f}")
    say("centres found with 1, 3, 10 detections a cell: " + ", ".join(f"{value:.4f}" for value in found))
    unknown = "which class the cells have is not known: the finder tells none apart, --probabilities says it"
    say(unknown if every is None else named_right(truth, every, len(classes)))


def named_right(truth: pd.DataFrame, every: pd.DataFrame, classes: int) -> str:
    """How often the likeliest class is the true one, where a true cell is found (IoU above .5): accuracy, macro-F1."""
    likeliest = every.sort_values("score", ascending=False, kind="stable").drop_duplicates(["ImageID", *BOX])
    codes = pd.factorize(pd.concat([truth["ImageID"], likeliest["ImageID"]]))[0]
    boxes, others = (part[BOX].to_numpy(float) for part in (truth, likeliest))
    rows, overlaps = best_match(boxes, codes[: len(truth)], others, codes[len(truth) :], iou)
    found = overlaps > 0.5
    own, guess = truth["class"].to_numpy()[found], likeliest["class"].to_numpy()[rows[found]]
    accuracy = (own == guess).mean() if len(own) else 0.0
    return (
        f"classes of the {found.sum()} of {len(truth)} true cells that are found: accuracy {accuracy:.4f}, "
        f"macro-F1 {macro_f1(own, guess, classes):.4f}"
    )


def detections(
    cells: pd.DataFrame, name: str, probabilities: str | None, classes: Sequence[str]
) -> pd.DataFrame | None:
    """The cells table `name` as detections `ImageID,class,score,x1,y1,x2,y2`: a row a cell and class, or the finder's.

    None where there are several classes and nothing says which the cells have: no probabilities, every Label empty.
    """
    if probabilities is None:
        if len(classes) == 1:
            return cells.assign(**{"class": 0})
        named = "Label" in cells and (cells["Label"] != "").all()
        return cells.assign(**{"class": certain(cells, classes, name).argmax(axis=1)}) if named else None
    table = read_probabilities(probabilities, classes)
    probs = table[list(classes)].to_numpy()[match_rows(cells, table, KEY, probabilities)]
    rows, which = np.indices(probs.shape).reshape(2, -1)
    found = cells[["ImageID", *BOX]].iloc[rows].reset_index(drop=True)
    return found.assign(**{"class": which, "score": cells["score"].to_numpy()[rows] * probs.ravel()})


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
    save_figure(path, figure)


if __name__ == "__main__":
    run(main)
