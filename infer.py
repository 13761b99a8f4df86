"""From test images to submission.csv in one go, with the models that an ensemble CSV names, against the clock.

    python infer.py --competition hpa --ensemble ensemble_configs/ensemble_kaggle016.csv \\
        --metadata DATA/sample_submission.csv --root_dir DATA/test --base_dir RESULTS --work_dir WORK \\
        --out_path submission.csv --views all --seeds 1 --time_limit 8h30m

Does what segment.py, test.py (each model, epoch, fold, seed and view), convertpredictions.py and ensemble.py do one
after another, to the same numbers. The CSV's tables must be called probabilities_<model>_<epoch>.csv; the checkpoints
are RESULTS/models/<model>/fold<k>/<NNN>.pth, or best.pth where <epoch> is best. The flags of the finder are
segment.py's (--augment: its views; --views: the classifiers'), those of the rules ensemble.py's.

All writing goes below --work_dir and to --out_path; the other folders may be read-only. The same command again does
only what is missing: WORK has meta/, crops/, images/, cache/, submissions/ (raw predictions) and tables/ as these
scripts write them, and ensemble_<CSV's name>.csv, the combined probabilities.

With --time_limit the run ends before the limit, imports and finding the cells included, and has a valid submission at
any time: at first one without cells (where --out_path is not there yet), a real one from the first pass on, and a
better one after each further pass. engine/passes.py says in which order passes come. A pass begins only if by the
measurements so far it will end in time together with the submission after it, in as many of its views as fit. Of
what one pass cannot end the done parts are kept for the next run. Finding the cells may take 70 % of the time; images
that are not reached are submitted without cells.

What is left out, by the clock or for an error, is shown and listed in <submission's name>_left_out.csv beside the
submission (`Stage,Model,Fold,Seed,View,Image,Reason`), which is there only then. Exit code 0: every image was looked
at, though perhaps in fewer views or by fewer models than named; 1: images were skipped or not reached, a network
failed, or no pass was done at all. The submission is valid with either.
"""

import argparse
import re
from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from lightning_fabric import Fabric

import competitions
import convertpredictions
import ensemble
import segment
import test as predict
from augment.views import parse_views
from cells.segmenting import COLUMNS
from cells.table import BOX, CELL_COLUMNS, read_table, write_table
from common.errors import UserError, run, some
from common.files import existing, safe_name, sole_writer
from common.workers import count_workers
from competitions import Competition
from convertpredictions import parse_numbers
from engine.checkpoints import epoch_name, read, run_folder
from engine.clock import Clock, process_age, show_duration, start_clock
from engine.device import describe, make_fabric
from engine.passes import NO_TIME, Model, Pass, plan, run_passes
from engine.predict import Tally

FINDING = 0.7  # of the time: what finding the cells may take
RULES = ("rank", "average", "combine", "cell_weight", "decay", "negative", "negative_penalty", "border_weight")
FOLDERS = {"meta_dir": "meta", "crop_dir": "crops", "img_dir": "images", "cache_dir": "cache"}  # below --work_dir
LEFT_OUT = ["Stage", "Model", "Fold", "Seed", "View", "Image", "Reason"]


def get_args_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    add = parser.add_argument
    add("--ensemble", required=True, help="the ensemble CSV: Predictions,Type,<class names>")
    add("--metadata", required=True, help="sample_submission.csv, test.csv, ...: what a submission is made from")
    add("--root_dir", required=True, help="folder of the test images")
    add("--base_dir", required=True, help="train.py's --result_dir, with models/<model>/fold<k>/")
    add("--work_dir", required=True, help="folder to write")
    add("--out_path", required=True, help="the submission's file")
    add("--views", default="all", help="of the classifiers: default, all, or views joined by commas; default: all")
    add("--seeds", default="0", help="of the random crops, joined by commas; 0: the whole image; default: 0")
    add("--folds", help="joined by commas; default: of each model all that it has a checkpoint of")
    add("--gpu_id", default="0", help="a GPU, or cpu; without any GPU the CPU is used")
    add("--mixed_precision", type=int, choices=[0, 1], default=1, help="float16 on a GPU")
    add("--workers", type=int, help="processes that find cells or read; default: one a core")
    add("--batch_size", type=int, default=32, help="cells or images a step of a classifier")
    add("--time_limit", help="end before so much time is gone, such as 8h30m, 90m or 45 (seconds)")
    segment.add_finder_flags(parser.add_argument_group("finder, as in segment.py"))
    ensemble.add_rule_flags(parser.add_argument_group("rules, as in ensemble.py"))
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Check everything, find the cells, make the passes, say what is left out."""
    args = get_args_parser().parse_args(argv)
    clock = start_clock(args.time_limit, process_age() if argv is None else 0.0)
    if not (args.gpu_id == "cpu" or args.gpu_id.isdecimal()):
        raise UserError(f"--gpu_id {args.gpu_id} must be one GPU's number or the word cpu")
    args.workers = count_workers(args.workers)
    views, seeds = parse_views(args.views), predict.parse_seeds(args.seeds)
    road = Road(args, clock)
    with sole_writer(args.work_dir):
        if clock.limited and not road.out.exists():
            road.write_blank()
        found = road.find_cells()
        done, left = road.make(plan(road.models, views, seeds, clock.limited), found)
        if not done and found.cells and not clock.limited:
            raise UserError(left[0][1])
        if not found.cells:
            road.write_blank()
        list_left_out(road.out, found, left)
    failed = [reason for _, reason in left if reason != NO_TIME]
    return 1 if found.skipped or found.left or failed or not done else None


def say(text: str) -> None:
    """Tell the user how it goes."""
    print(text, flush=True)  # noqa: T201


class Road:
    """The stages of one command, each on the scripts' own functions; UserError for input that cannot be right."""

    def __init__(self, args: Namespace, clock: Clock):
        self.args, self.clock = args, clock
        self.work, self.out = Path(args.work_dir), Path(args.out_path)
        self.competition = competitions.get(args.competition, args.classes)
        self.images = ensemble.read_images(Namespace(meta_csv=args.metadata, submission=1), self.competition)
        self.config = existing(args.ensemble, "--ensemble")
        self.cells = self.work / "meta" / f"{Path(args.metadata).stem}_cell.csv"
        self.models = find_models(args, self.config, self.competition)

    def find_cells(self) -> segment.Outcome:
        """Run segment.py; with a limit it has FINDING of the time."""
        folders = {name: str(self.work / place) for name, place in FOLDERS.items()}
        flags = Namespace(**{**vars(self.args), **folders, "dataset": "test", "overwrite": False})
        clock = self.clock.minus((1 - FINDING) * self.clock.left()) if self.clock.limited else self.clock
        return segment.segment(flags, clock)

    def make(self, passes: Sequence[Pass], found: segment.Outcome) -> tuple[list[Pass], list[tuple[Pass, str]]]:
        """Make the passes that there is time for, and the submission; without any cell none is worth it."""
        if not found.cells:
            return [], []
        fabric = make_fabric(self.args.gpu_id, bool(self.args.mixed_precision))
        fabric.launch()
        say(describe(fabric))
        samples = {False: found.cells, True: found.images}
        return run_passes(passes, self.clock, samples, partial(self.look, fabric), self.convert, self.combine)

    def look(self, fabric: Fabric, own: Pass, clock: Clock, whole: bool) -> Tally:
        """One pass of test.py."""
        flags = self.flags(
            predict, base_dir=self.args.base_dir, out_dir=own.model.name, predict_epoch=own.model.epoch, fold=own.fold,
            augment=",".join(own.views), seed=own.seed, cellorimage=own.model.sees,
            img_dir=self.work / ("images" if own.model.from_images else "crops"), cache_dir=self.work / "cache",
            predictions_path=self.work / "submissions", batch_size=self.args.batch_size, workers=self.args.workers,
        )  # fmt: skip
        began = clock.now()
        (tally,) = predict.predict(flags, fabric, clock, whole)
        rest = f", {show_duration(self.clock.left())} left" if self.clock.limited else ""
        say(f"{own}: {len(own.views)} views in {show_duration(clock.now() - began)}{rest}")
        return tally

    def convert(self, model: Model, done: Sequence[Pass]) -> None:
        """What convertpredictions.py does, of a model's passes that are done."""
        own = [one for one in done if one.model == model]
        made = {(one.fold, f"{view}_seed{one.seed}") for one in own for view in one.views}
        flags = self.flags(
            convertpredictions, model=model.name, epoch=model.epoch, cellorimage=model.sees, augment=self.args.views,
            seeds=",".join(dict.fromkeys(str(one.seed) for one in own)),
            folds=",".join(map(str, sorted({one.fold for one in own}))), predictions_path=self.work / "submissions",
            meta_csv_path=self.args.metadata, cell_meta_csv_path=self.cells, out_path=self.work / "tables",
        )  # fmt: skip
        files = {
            fold: [path for path in paths if (fold, path.parent.name) in made]
            for fold, paths in convertpredictions.find_files(flags).items()
        }
        write_table(convertpredictions.convert(flags, files), self.work / "tables" / model.table)

    def combine(self, done: Sequence[Pass]) -> bool:
        """What ensemble.py does, of the models with a pass that is done; False when they say nothing of some class."""
        classes = list(self.competition.CLASSES)
        rows = read_table(self.config, {"Predictions": str, "Type": str, **dict.fromkeys(classes, float)})
        rows["Predictions"] = [Path(name).name for name in rows["Predictions"]]
        rows = rows[rows["Predictions"].isin({own.model.table for own in done})]
        silent = [kind for kind, own in rows.groupby("Type") if (own[classes].sum() == 0).any()]
        rows = rows[~rows["Type"].isin(silent)]
        if rows.empty:
            return False
        config = self.work / "config" / self.config.name
        write_table(rows, config)
        rules = {name: getattr(self.args, name) for name in RULES}
        flags = self.flags(
            ensemble, config, submission=1, meta_csv=self.args.metadata, cell_meta_csv_path=self.cells,
            out_path=self.work, tables_path=self.work / "tables", submission_path=self.out, **rules,
        )  # fmt: skip
        ensemble.decide_all(flags)
        return True

    def flags(self, script: ModuleType, *words: Path, **flags: object) -> Namespace:
        """The flags of one of the scripts."""
        flags = {"competition": self.args.competition, "classes": self.args.classes, "dataset": "test", **flags}
        given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return script.get_args_parser().parse_args([*map(str, words), *given])

    def write_blank(self) -> None:
        """Write the submission that says of each image what the competition takes for an image without cells."""
        kinds = dict.fromkeys(COLUMNS, float) | CELL_COLUMNS | dict.fromkeys(BOX, float)
        cells = pd.DataFrame({name: pd.Series(dtype=object if kind is str else kind) for name, kind in kinds.items()})
        self.competition.write_submission(self.out, self.images, cells, np.zeros((0, len(self.competition.CLASSES))))


def find_models(args: Namespace, config: Path, competition: Competition) -> list[Model]:
    """The models of the ensemble CSV, with their folds and what they weigh; UserError for a checkpoint that is missing.

    A model's weight is its share of its kind's opinion (of cells, of images), the mean over the classes. The smallest
    set has of each kind the heaviest model, and the next ones as long as some class has no weight.
    """
    classes = list(competition.CLASSES)
    rows = ensemble.read_config(config, classes).sort_values("Predictions", kind="stable")
    kinds = rows["Type"].map(ensemble.TYPES)
    shares = rows[classes] / rows[classes].groupby(kinds).transform("sum")
    rows["Weight"], rows["Smallest"] = shares.mean(axis=1), False
    for _, own in rows.groupby(kinds):
        own = own.sort_values("Weight", ascending=False, kind="stable")
        own = own[own["Type"] == own["Type"].iloc[0]]
        before = own[classes].cumsum() - own[classes]
        rows.loc[own.index, "Smallest"] = (before == 0).any(axis=1)
    return [find_model(args, str(config), name, own) for name, own in rows.groupby("Predictions", sort=False)]


def find_model(args: Namespace, config: str, name: str, rows: pd.DataFrame) -> Model:
    """The model whose table the CSV calls `name`, in those `rows`."""
    match = re.fullmatch(r"probabilities_(.+)_([0-9]+|best)\.csv", Path(name).name)
    sees = sorted({"image" if kind == "image" else "cell" for kind in rows["Type"]})
    if not match or len(sees) > 1:
        raise UserError(f"{config}: {name} must be called probabilities_<model>_<epoch>.csv, of cells or of images")
    model, epoch = safe_name(match[1], f"{config}: Predictions"), match[2]
    file = "best.pth" if epoch == "best" else f"{epoch_name(int(epoch))}.pth"
    there = (Path(args.base_dir) / "models" / model).glob(f"fold*/{file}")
    folds = parse_numbers(args.folds, "--folds") if args.folds else fold_numbers(there)
    if not folds:
        raise UserError(f"{config} names {name}, but {args.base_dir}/models/{model} has no fold<k>/{file}")
    for fold in folds:
        existing(run_folder(args.base_dir, model, fold) / file, f"the checkpoint for {name}")
    settings = read(run_folder(args.base_dir, model, folds[0]) / file, "--base_dir")["settings"]
    kind = "nucleus" if sees == ["cell"] and settings["cell"] == "nucleus" else sees[0]
    from_images = kind == "image" or predict.finds_in_images(kind, settings)
    return Model(model, epoch, kind, from_images, tuple(folds), rows["Weight"].sum(), rows["Smallest"].any())


def fold_numbers(paths: Iterable[Path]) -> list[int]:
    """The folds of files in folders fold0, fold1, ..."""
    names = [path.parent.name.removeprefix("fold") for path in paths]
    return sorted(int(name) for name in names if name.isdecimal())


def list_left_out(out: Path, found: segment.Outcome, left: Sequence[tuple[Pass, str]]) -> None:
    """Show what was left out, and write it as a table beside the submission, which goes when nothing is left out."""
    rows = [
        dict(zip(LEFT_OUT, ("predict", own.model.name, own.fold, own.seed, view, "", reason), strict=True))
        for own, reason in left
        for view in own.views
    ]
    reasons = found.skipped | dict.fromkeys(found.left, NO_TIME)
    rows += [{"Stage": "segment", "Image": image, "Reason": reason} for image, reason in reasons.items()]
    path = out.with_name(f"{out.stem}_left_out.csv")
    if not rows:
        path.unlink(missing_ok=True)
        return
    write_table(pd.DataFrame(rows, columns=LEFT_OUT, dtype=object).fillna("").astype(str), path)
    for own, reason in left:
        say(f"left out: {own}, {some(own.views, 8)}: {reason}")
    if found.left:
        say(f"not reached: {some(found.left)}; submitted without cells")
    say(f"{path}: {len(rows)} passes and images are left out")


if __name__ == "__main__":
    run(main)
