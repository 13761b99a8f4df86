"""The prediction half of the road in one process: infer.py's stages, each on the functions of its own script."""

import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

import competitions
import convertpredictions
import ensemble
import segment
import test as predict
from augment.views import parse_views
from cells.finders import FINDERS
from cells.segmenting import COLUMNS
from cells.table import BOX, CELL_COLUMNS, read_table, write_table
from common.errors import UserError, at_least, choose, some
from common.files import atomic, digest, existing, safe_name
from common.say import say
from competitions import Competition
from convertpredictions import parse_numbers
from engine.checkpoints import epoch_name, read, run_folder
from engine.clock import Clock, show_duration
from engine.device import describe, make_fabric
from engine.passes import Model, Pass, plan, run_passes
from engine.predict import Tally

FINDING = 0.7  # of the time: what finding the cells may take
FOLDERS = {"meta_dir": "meta", "crop_dir": "crops", "img_dir": "images", "cache_dir": "cache"}  # below --work_dir
RULES = ("rank", "average", "combine", "cell_weight", "decay", "negative", "negative_penalty", "border_weight")


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
        self.img_size = stored_size(args.img_size, self.models)
        self.note = self.work / "submission_of.txt"
        self.made_from = f"{self.out.resolve()} {digest(args.metadata)}\n"
        self.views, self.seeds = check_flags(args, self.competition)
        self.fabric = make_fabric(args.gpu_id, bool(args.mixed_precision), single=True)

    def write_blank(self) -> None:
        """Write a submission in which no image has cells."""
        write_blank(self.out, self.images, self.competition)
        self.note_submission()

    def has_submission(self) -> bool:
        """Whether the submission's file is there, made from the metadata as they are now."""
        return self.out.exists() and self.note.exists() and self.note.read_text(encoding="utf-8") == self.made_from

    def note_submission(self) -> None:
        """Keep what the submission was made from."""
        with atomic(self.note) as temporary:
            temporary.write_text(self.made_from, encoding="utf-8")

    def find_cells(self) -> segment.Outcome:
        """Run segment.py; with a limit it has FINDING of the time. What an earlier run made of images that are not
        reached now, or not in the metadata, goes, for the networks look at all that is there.
        """
        folders = {name: str(self.work / place) for name, place in FOLDERS.items()}
        own = {**folders, "dataset": "test", "overwrite": False, "img_size": self.img_size}
        flags = Namespace(**{**vars(self.args), **own})
        clock = self.clock.minus((1 - FINDING) * self.clock.left()) if self.clock.limited else self.clock
        found = segment.segment(flags, clock)
        wanted = set(self.images["ID"]).difference(found.left)
        for kind in ("crops", "images"):
            for path in (self.work / kind / "test").glob("[!.]*"):
                if path.stem not in wanted:
                    path.unlink()
        return found

    def make_passes(self, found: segment.Outcome) -> tuple[list[Pass], list[tuple[Pass, str]]]:
        """Make the passes that there is time for, and the submission; without any cell none is worth it."""
        passes = plan(self.models, self.views, self.seeds, self.clock.limited)
        if not found.cells:
            return [], [(own, "no cells were found") for own in passes]
        self.fabric.launch()
        say(describe(self.fabric))
        samples = {False: found.cells, True: found.images}
        return run_passes(passes, self.clock, samples, self.look, self.convert, self.combine)

    def look(self, own: Pass, clock: Clock, whole: bool) -> Tally:
        """One pass of test.py."""
        flags = self.flags(
            predict, base_dir=self.args.base_dir, out_dir=own.model.name, predict_epoch=own.model.epoch, fold=own.fold,
            augment=",".join(own.views), seed=own.seed, cellorimage=own.model.sees,
            img_dir=self.work / ("images" if own.model.from_images else "crops"), cache_dir=self.work / "cache",
            crop_dir=self.work / "crops",
            predictions_path=self.work / "submissions", batch_size=self.args.batch_size, workers=self.args.workers,
        )  # fmt: skip
        began = clock.now()
        (tally,) = predict.predict(flags, self.fabric, clock, whole)
        took = f"{own}: {len(own.views)} views in {show_duration(clock.now() - began)}"
        stopped = f", stopped with {tally.left} samples left" if tally.left else ""
        say(took + stopped + (f"; {show_duration(self.clock.left())} left" if self.clock.limited else ""))
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
        if "cell" not in set(rows["Type"]):
            rules["decay"] = None  # which ranks the cells of an image by the cell models
        flags = self.flags(
            ensemble, config, submission=1, meta_csv=self.args.metadata, cell_meta_csv_path=self.cells,
            out_path=self.work, tables_path=self.work / "tables", submission_path=self.out, **rules,
        )  # fmt: skip
        ensemble.decide_all(flags)
        self.note_submission()
        return True

    def flags(self, script: ModuleType, *words: Path, **flags: object) -> Namespace:
        """The flags of one of the scripts."""
        flags = {"competition": self.args.competition, "classes": self.args.classes, "dataset": "test", **flags}
        given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return script.get_args_parser().parse_args([*map(str, words), *given])


def check_flags(args: Namespace, competition: Competition) -> tuple[list[str], list[int]]:
    """The classifiers' views and seeds; UserError for a flag of infer.py that would else be refused hours later."""
    at_least(args, {"batch_size": 1, "img_size": 1})
    if args.finder:
        choose(FINDERS, args.finder, "--finder")
    ensemble.check_rules(Namespace(**vars(args)), competition)
    return parse_views(args.views, "--views"), predict.parse_seeds(args.seeds)


def write_blank(out: Path, images: pd.DataFrame, competition: Competition) -> None:
    """Write the submission that says of each image what the competition takes for an image without cells."""
    kinds = dict.fromkeys(COLUMNS, float) | CELL_COLUMNS | dict.fromkeys(BOX, float)
    cells = pd.DataFrame({name: pd.Series(dtype=object if kind is str else kind) for name, kind in kinds.items()})
    competition.write_submission(out, images, cells, np.zeros((0, len(competition.CLASSES))))


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
    place = f"{config} row {rows.index[0] + 2}, column Predictions:"
    match = re.fullmatch(r"probabilities_(.+)_([0-9]+|best)\.csv", Path(name).name)
    sees = sorted({"image" if kind == "image" else "cell" for kind in rows["Type"]})
    if not match or len(sees) > 1:
        raise UserError(f"{place} {name} must be called probabilities_<model>_<epoch>.csv, of cells or of images")
    model, epoch = safe_name(match[1], place), match[2]
    file = "best.pth" if epoch == "best" else f"{epoch_name(int(epoch))}.pth"
    folds = find_folds(args, model, file, f"{place} {name}")
    paths = [run_folder(args.base_dir, model, fold) / file for fold in folds]
    settings = [read(path, place)["settings"] for path in paths]
    kind = "nucleus" if sees == ["cell"] and settings[0].get("cell") == "nucleus" else sees[0]
    competition = competitions.get(args.competition, args.classes, nuclei=kind == "nucleus")
    for path, own in zip(paths, settings, strict=True):
        predict.check_checkpoint(own, path, competition)
    from_images = kind == "image" or predict.finds_in_images(kind, settings[0])
    img_size = max(own["img_size"] for own in settings)
    return Model(model, epoch, kind, from_images, tuple(folds), rows["Weight"].sum(), rows["Smallest"].any(), img_size)


def find_folds(args: Namespace, model: str, file: str, what: str) -> list[int]:
    """The folds that --folds names, else all of the model's; UserError unless each has the checkpoint `file`.

    what: the row of the ensemble CSV that wants it. A fold that was left out unnoticed would cost score.
    """
    folder = Path(args.base_dir) / "models" / model
    folds = parse_numbers(args.folds, "--folds") if args.folds else fold_numbers(folder.glob("fold*"))
    if not folds:
        models = sorted(path.name for path in folder.parent.glob("[!.]*"))
        there = f"{folder.parent} has {some(models, 8) or 'no model'}"
        raise UserError(f"{what} needs {folder}/fold<k>/{file}, and there is no fold; {there}; is --base_dir right?")
    paths = {fold: run_folder(args.base_dir, model, fold) / file for fold in folds}
    lacking = [fold for fold, path in paths.items() if not path.is_file()]
    if lacking:
        having = [fold for fold in folds if fold not in lacking]
        epochs = set.intersection(*(epochs_in(path.parent) for path in paths.values()))
        raise UserError(
            f"{what} needs {paths[lacking[0]]}, which is missing; folds with {file}: {some(having, 10) or 'none'}, "
            f"without it: {some(lacking, 10)}; train these, give --folds only those that have it, or name an epoch "
            f"that all have: {some(sorted(epochs, key=lambda epoch: epoch.zfill(4)), 10) or 'none'}"
        )
    return folds


def fold_numbers(folders: Iterable[Path]) -> list[int]:
    """The folds that folders fold0, fold1, ... are of."""
    names = [folder.name.removeprefix("fold") for folder in folders]
    return sorted(int(name) for name in names if name.isdecimal())


def epochs_in(folder: Path) -> set[str]:
    """The epochs of which a run's folder has a checkpoint, as the ensemble CSV writes them: 1, 2, ..., best."""
    names = {path.stem for path in folder.glob("*.pth")}
    return {str(int(name)) if name.isdecimal() else name for name in names if name.isdecimal() or name == "best"}


def stored_size(given: int | None, models: Sequence[Model]) -> int:
    """The side of the stored whole images in pixels: `given`, else the largest that a network reads them at.

    Warns of networks that read them larger than `given`. Where all read crops, theirs is taken: nobody looks.
    """
    readers = [model for model in models if model.from_images]
    for model in readers:
        if given is not None and given < model.img_size:
            less = f"--img_size {given} is less than the {model.img_size} pixels at which {model.name} was trained"
            say(f"warning: {less}; its images are made smaller, then larger again", sys.stderr)
    return max(model.img_size for model in readers or models) if given is None else given
