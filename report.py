"""One page about a run: what was done, how good it is, and cells to look at.

    python report.py OUT
    python report.py OUT --truth DATA/truth.csv --submission OUT/steps/submission_cell.csv OUT/submission.csv \\
        --names "cell model alone" "cell x image"

Writes OUT/report.html, which needs no network, no scripts and no other file: the stages that left something in the
folder OUT with their times, the scores of each class beside the baselines', the training curves, cells of each class
and those that are most wrong, the ensemble's weights and how much its models agree, and the weights and settings of it
all. What the folder does not hold is left out, and the page says so.

The files are found by the names that docs/formats.md gives them; the flags name others. The score that counts is that
of submission.csv (evaluate.py), or the last of --submission; those given before it, else all of the same kind that are
found, are what it is compared with. --truth, as of visualize.py, says which cells are wrong. Times are exact where the
recipe had them noted (common/times.py), else guessed from the files' dates; the page says which.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

import competitions
from cells.store import Store
from cells.table import read_cells
from common.errors import UserError, run, some
from common.files import atomic, existing, sole_writer
from common.say import say
from competitions import Competition
from pictures.judging import read_truth
from pictures.opinions import opinion
from reporting import ensembles, gallery, made_of, pipeline, scores, training
from reporting.folder import Results, columns
from reporting.html import Html, absent, anchor, page, tag
from reporting.thumbs import Thumbs
from reporting.times import read_commands
from visualize import positive

SHARE = 0.7  # of --max_mb: what the pictures may take
BASE64 = 4 / 3


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="folder of a run: OUT of a recipe")
    competitions.add_flags(parser)
    parser.set_defaults(competition=None)
    parser.add_argument("--out_path", help="the page; default: report.html in the folder")
    parser.add_argument("--title", help="default: the folder's name")
    parser.add_argument("--submission", nargs="+", help="submissions that evaluate.py scored, the one that counts last")
    parser.add_argument("--names", nargs="+", help="what to call them; default: their paths")
    parser.add_argument("--cell_meta_csv_path", help="cells table to show; default: the one that fits")
    parser.add_argument("--probabilities", help="its probabilities; default: the outermost ensemble_<name>.csv")
    parser.add_argument("--crop_dir", help="its crop store; default: the one that fits")
    parser.add_argument("--ensemble", help="ensemble CSV; default: the one of that name")
    parser.add_argument("--truth", help="train.csv, of hpa also a table of true cells")
    parser.add_argument("--root_dir", help="folder of the images: shows true cells that were not found")
    parser.add_argument("--per_class", type=positive, default=6, help="cells of each class; default: 6")
    parser.add_argument("--limit", type=positive, default=24, help="cells of each kind of error; default: 24")
    parser.add_argument("--size", type=positive, default=160, help="pixels of a cell; default: 160")
    parser.add_argument("--max_mb", type=float, default=5, help="to be smaller than this cells get coarser; default: 5")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the folder, make the parts, write the page."""
    args = get_args_parser().parse_args(argv)
    results = Results(existing(args.results, "the results folder"))
    for flag in ("cell_meta_csv_path", "probabilities", "crop_dir", "ensemble", "truth", "root_dir"):
        if getattr(args, flag) is not None:
            existing(getattr(args, flag), f"--{flag}")
    if not 0 < args.max_mb < float("inf"):
        raise UserError(f"--max_mb {args.max_mb} must be a number above 0")
    if not results.root.is_dir():
        raise UserError(f"{results.root} is a file; the folder of a run is right")
    if args.names and not args.submission:
        raise UserError("--names goes with --submission, whose names they are")
    report = Report(args, results)
    text = report.write()
    path = Path(args.out_path or results.root / "report.html")
    with sole_writer(path.parent), atomic(path) as temporary:
        temporary.write_bytes(text)
    more = f", more than --max_mb {args.max_mb:g}: fewer cells make it smaller (--per_class, --limit)"
    say(f"{path}: {len(text) / 1e6:.1f} MB{more if len(text) > args.max_mb * 1e6 else ''}")
    if report.skipped:
        say(f"not shown: {some(dict.fromkeys(report.skipped), 8)}")
    return 1 if report.skipped else None


class Report:
    """The page. A part that cannot be made says why in its place; `skipped` has what is missing."""

    def __init__(self, args: argparse.Namespace, results: Results):
        self.args, self.results, self.competition = args, results, competition_of(args, results)
        self.score = scores.read_scores(results, args.submission or (), args.names or ())
        self.skipped: list[str] = []
        self.stages: Sequence[pipeline.Stage] = ()
        self.shown: gallery.Shown | None = None

    def write(self) -> bytes:
        """The whole page, UTF-8."""
        parts = {
            pipeline.TITLE: self.pipeline, scores.TITLE: self.scores,
            training.TITLE: lambda: training.training(self.results.runs), gallery.TITLE: self.gallery,
            ensembles.TITLE: self.ensemble, made_of.TITLE: lambda: made_of.made_of(self.results),
        }  # fmt: skip
        made = [self.part(title, make) for title, make in parts.items()]
        title = self.args.title or self.results.root.resolve().name
        about = importlib.import_module(competitions.COMPETITIONS[self.competition.name]).__doc__.partition(":")[0]
        if self.competition.classes:
            about += f", classes {some(self.competition.classes, 6)}"
        links = [tag("a", name, href=f"#{anchor(name)}") for name in parts]
        facts = [(stage.title, stage.fact) for stage in self.stages[:4]]
        result = training.result(self.results.runs) if self.score is None else \
            scores.result(self.score, self.competition.SCORE, facts)  # fmt: skip
        head = tag("header", tag("p", "Podium", class_="eyebrow"), tag("h1", title), tag("p", about, class_="about"),
                   result, tag("nav", *links))  # fmt: skip
        return page(f"{title} – Podium", head, tag("main", *made))

    def part(self, title: str, make: Callable[[], Html]) -> Html:
        """A part, or why there is none."""
        try:
            return make()
        except UserError as error:
            self.skipped.append(str(error))
            return absent(title, f"Cannot be shown: {error}.")

    def pipeline(self) -> Html:
        """What was run, and how long it took."""
        commands = [command for path in self.results.files["times"] for command in read_commands(path)]
        score = (self.competition.SCORE, self.score.main.mean) if self.score else None
        submission = self.args.submission[-1] if self.args.submission else None
        self.stages = pipeline.stages(self.results, commands, score, submission)
        return pipeline.pipeline(self.stages, commands)

    def scores(self) -> Html:
        """The scores of the classes."""
        if self.score is None:
            return absent(scores.TITLE, "No score table of evaluate.py is in this folder.")
        return scores.classes(self.score, self.competition.SCORE)

    def gallery(self) -> Html:
        """The cells by confidence and, where the truth is known, by error."""
        args = self.args
        self.shown = cells_to_show(args, self.results, self.competition)
        if self.shown is None:
            return absent(gallery.TITLE, "No cells table of segment.py, or none with the images of the probabilities, "
                "is in this folder; --cell_meta_csv_path names one.")  # fmt: skip
        most = args.max_mb * 1e6 * SHARE / BASE64 / gallery.planned(self.shown, args.per_class, args.limit)
        store = find_store(args.crop_dir, self.results, self.shown.cells)
        thumbs = Thumbs(self.competition, store, args.root_dir, args.size, int(most))
        made = gallery.gallery(self.shown, thumbs, args.per_class, args.limit)
        self.skipped += thumbs.failed
        return made

    def ensemble(self) -> Html:
        """The ensemble's weights, and how much its models agree."""
        table = self.args.probabilities or next(iter(self.results.files["combined"]), None)
        config = self.args.ensemble or (table and ensembles.find_config(self.results, Path(table)))
        if config is None:
            return absent(ensembles.TITLE, "The ensemble CSV is not in this folder; --ensemble names it." if table else
                "No ensemble CSV, and no table that one was made of, is in this folder.")  # fmt: skip
        cells = None if self.shown is None else self.shown.cells
        return ensembles.ensemble(Path(config), self.results, cells, self.competition.CLASSES)


def competition_of(args: argparse.Namespace, results: Results) -> Competition:
    """That of the flags, else that of the runs."""
    name = args.competition or results.setting("competition")
    if name is None:
        raise UserError(f"no run in {results.root} says which competition it is; give --competition")
    return competitions.get(name, args.classes or (None if args.competition else results.setting("classes")))


def cells_to_show(args: argparse.Namespace, results: Results, competition: Competition) -> gallery.Shown | None:
    """The cells, what the models think of them, and what is true; None without a cells table."""
    table = args.probabilities or next(iter(results.files["combined"]), None)
    if table is None and len(results.files["table"]) == 1:
        table = results.files["table"][0]
    path = args.cell_meta_csv_path or find_cells(results, table and Path(table))
    if path is None:
        return None
    cells, probs = opinion(read_cells(path), competition, table and str(table), None, str(path))
    truth = read_truth(args.truth, cells, competition, args.root_dir, probs) if args.truth else None
    return gallery.Shown(cells, probs, truth, competition)


def find_cells(results: Results, table: Path | None) -> Path | None:
    """The cells table that has the images of a probabilities table; without one the outermost, rather not train's."""
    paths = sorted(results.files["cells"], key=lambda path: path.stem == "train_cell")
    if table is None:
        return next(iter(paths), None)
    images = set(columns(table, ["ImageID"])["ImageID"])
    return next((path for path in paths if images <= set(columns(path, ["ImageID"])["ImageID"])), None)


def find_store(crop_dir: str | None, results: Results, cells: pd.DataFrame) -> Store | None:
    """The crop store of --crop_dir, else the one that has the cells' images; of several the one that has the cells."""
    if crop_dir:
        return Store(crop_dir)
    ids = cells.groupby("ImageID")["CellID"].agg(set)
    names = {f"{image_id}.zip" for image_id in ids.index}
    found = [Store(folder) for folder, shards in results.stores.items() if names <= set(shards)]
    if len(found) > 1:
        found = [store for store in found if all(own == set(store.cells(image_id)) for image_id, own in ids.items())]
    return found[0] if found else None


if __name__ == "__main__":
    run(main)
