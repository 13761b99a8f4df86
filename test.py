"""Predict images or cells with trained networks, in up to eight views and any number of random-crop seeds.

    python test.py --base_dir RESULTS --out_dir Cell_BCE --predict_epoch 6 --fold 0 --augment all --seed 1 \\
        --dataset test --img_dir CROPS --cellorimage cell

Writes RESULTS/submissions/<out_dir>/fold<k>/epoch_<NNN>/<view>_seed<s>/prob_<dataset>.npz, where <NNN> is `best` for
--predict_epoch best, which is another epoch in each fold. Flags that are not given are
read from the checkpoint. `--dataset valid` predicts the validation images of the fold, for out-of-fold scores.
Seed 0 sees the whole image; every other seed a random crop of each, as in training.

With --time_limit it stops before the limit and says what is left (exit code 1); the next run goes on there.
"""

import argparse
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

import competitions
from augment.crops import Resize, random_crop, whole
from augment.views import parse_views
from cells.crops import resize
from common.errors import UserError, at_least, run, some
from common.files import digest, existing, sole_writer
from common.times import process_age
from competitions import Competition
from engine.checkpoints import epoch_name, load_model, read, run_folder
from engine.clock import Clock, start_clock
from engine.data import Samples
from engine.device import describe, enough_memory, make_fabric
from engine.image_cells import Bags, LabelledImages, bags_of, with_labels
from engine.nuclei import nuclei_of
from engine.predict import Tally, predict_views
from engine.samples import open_samples, read_fold, split_file
from engine.settings import TABLES
from losses import build_loss
from models import BagOfCells, Classifier, DuoBranch, MaskPooled, PuzzleCAM, build, task_of, wrapper_of
from models.bestfitting import LAST, OLD_CLASSES, NewClasses, load_bestfitting, read_bestfitting
from models.puzzle import CAM_POOLS

FROM_CHECKPOINT = ("arch", "num_classes", "in_channels", "img_size", "crop_size", "split_name")


def get_args_parser() -> argparse.ArgumentParser:
    """The command line; defaults of None are read from the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    competitions.add_flags(parser)
    add("--base_dir", default="results", help="train.py's --result_dir")
    add("--out_dir", required=True, help="the run's name")
    add("--fold", type=int, default=0)
    add("--predict_epoch", default="best", help="an epoch's number, best or last")
    add("--network_path", help="a checkpoint elsewhere, instead of the one that --predict_epoch names")
    add("--preload", choices=["bestfitting"],
        help="--network_path is a DenseNet of the 2018 competition: predict with it untrained, its 28 classes as our "
             "19; counts as epoch 0")  # fmt: skip
    # What it sees.
    add("--img_dir", required=True, help="segment.py's --crop_dir (cells) or --img_dir (images)")
    add("--cache_dir", help="segment.py's, for nuclei, or cells from whole images (pooled_<timm>, class_<timm>_cam)")
    add("--crop_dir", help="segment.py's, for whole images of duo_<timm>, which judges them with some of their cells")
    add("--cellorimage", choices=["cell", "image", "nucleus"], help="default: as trained")
    add("--dataset", default="test", help="a dataset folder below --img_dir; valid: the fold's validation images")
    add("--split_name", help="for --dataset valid: a folder of --folds_dir")
    add("--folds_dir", default="cv_folds", help="for --dataset valid: where makefolds.py wrote")
    add("--img_size", type=int, help="pixels a side that an image or cell is read at")
    add("--crop_size", type=int, help="pixels a side that the network sees")
    add("--augment", default="default", help="default, all, or views joined by commas")
    add("--seed", type=int, default=0, help="of the random crops; 0: the whole image")
    add("--seeds", help="several seeds joined by commas, instead of --seed")
    add("--BGR", type=int, choices=[0, 1], default=0, help="1: the network was trained on channels blue first")
    # What it is; checked against the checkpoint.
    add("--arch", help="the network's name")
    add("--num_classes", type=int)
    add("--in_channels", type=int)
    add("--puzzle", type=int, choices=[0, 1], help="whether it was trained as a PuzzleCAM")
    add("--cam_pool", choices=CAM_POOLS, default="mean", help="class_<timm>_cam: how the map is pooled within a cell")
    # Where and how fast.
    add("--gpu_id", default="0", help="GPUs joined by commas, or cpu; without any GPU the CPU is used")
    add("--mixed_precision", type=int, choices=[0, 1], default=1, help="float16 on a GPU")
    add("--batch_size", type=int, default=32)
    add("--workers", type=int, default=0, help="processes that read and decode")
    add("--time_limit", help="stop before so much time is gone, such as 8h30m, 90m or 45 (seconds)")
    add("--predictions_path", help="where to write; default: BASE_DIR/submissions. What one network says of cells and "
        "what it says of images need two folders")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = get_args_parser().parse_args(argv)
    clock = start_clock(args.time_limit, process_age() if argv is None else 0.0)
    fabric = make_fabric(args.gpu_id, bool(args.mixed_precision))
    fabric.launch()
    fabric.print(describe(fabric))
    tallies = predict(args, fabric, clock)
    if left := tallies[-1].left:
        rest = parse_seeds(args.seeds or str(args.seed))[len(tallies) - 1 :]
        later = f", and seeds {some(rest[1:])} are not begun" if rest[1:] else ""
        fabric.print(f"stopped before --time_limit: seed {rest[0]} lacks {left} samples{later}; run it again to go on")
        return 1


def predict(args: Namespace, fabric: Fabric, clock: Clock, whole: bool = False) -> list[Tally]:
    """Predict what the flags name, and say what it took: a tally a seed. The last one's `left` is above zero when the
    clock ended the run. whole: stop as soon as it shows that a seed will not be done in time.
    """
    at_least(args, {**dict.fromkeys(("batch_size", "img_size", "crop_size"), 1), "workers": 0, "fold": 0})
    views = parse_views(args.augment)
    seeds = parse_seeds(args.seeds or str(args.seed))
    path, checkpoint = open_bestfitting(args) if args.preload else open_checkpoint(args)
    fill_from(checkpoint["settings"], args, path)
    model = network(args, checkpoint, path).to(fabric.device)
    out = Path(args.predictions_path or Path(args.base_dir) / "submissions") / args.out_dir / f"fold{args.fold}"
    best = args.predict_epoch == "best" and not args.network_path
    out /= "epoch_best" if best else f"epoch_{epoch_name(checkpoint['epoch'])}"
    identity = f"{digest(path)} {args.cam_pool}"
    tallies = []
    with sole_writer(out) if fabric.global_rank == 0 else nullcontext():
        for seed in seeds:
            files = {view: out / f"{view}_seed{seed}" / f"prob_{args.dataset}.npz" for view in views}
            title = f"predict {args.out_dir} fold {args.fold} seed {seed}"
            samples = open_dataset(args, seed)
            options = args.batch_size, args.workers, title, clock, whole
            with enough_memory("a smaller --batch_size needs less"):
                tallies.append(predict_views(fabric, model, samples, files, identity, *options))
            if tallies[-1].left:
                return tallies
    fabric.print(f"{out}: {len(seeds)} seeds x {len(views)} views of {args.dataset} done")
    return tallies


def parse_seeds(text: str) -> list[int]:
    """Seeds joined by commas.

    >>> parse_seeds("1,2")
    [1, 2]
    """
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds {text} must be whole numbers from 0 on, joined by commas")
    return list(dict.fromkeys(int(part) for part in parts))


def open_checkpoint(args: Namespace) -> tuple[Path, dict]:
    """The checkpoint that the flags name, and its path."""
    folder = run_folder(args.base_dir, args.out_dir, args.fold)
    if args.network_path:
        path, flag = Path(args.network_path), "--network_path"
    elif args.predict_epoch == "best":
        path, flag = folder / "best.pth", "--predict_epoch"
    elif args.predict_epoch == "last":
        path, flag = max(folder.glob("[0-9]*.pth"), default=folder / "001.pth"), "--predict_epoch"
    elif args.predict_epoch.isdecimal():
        path, flag = folder / f"{epoch_name(int(args.predict_epoch))}.pth", "--predict_epoch"
    else:
        raise UserError(f"--predict_epoch {args.predict_epoch} must be an epoch's number, best or last")
    return path, read(existing(path, flag), flag)


def open_bestfitting(args: Namespace) -> tuple[Path, dict]:
    """The --network_path of --preload bestfitting in the form of a checkpoint, before any epoch."""
    if not args.network_path:
        raise UserError("--preload bestfitting needs --network_path, the checkpoint to predict with")
    if args.competition != "hpa":
        raise UserError(f"--preload bestfitting: its classes are not those of {args.competition}; hpa is right")
    competition = competitions.get(args.competition, args.classes)
    path = existing(args.network_path, "--network_path")
    settings = {**competition.TRAIN_DEFAULTS["classify"], "num_classes": len(competition.CLASSES), "cell": "image"}
    weights = read_bestfitting(path, "--network_path")
    return path, {"model": weights, "settings": settings | {"arch": args.arch or settings["arch"]}, "epoch": 0}


def fill_from(settings: dict, args: Namespace, path: Path) -> None:
    """Take the flags that were not given from the checkpoint; refuse another architecture than it holds."""
    nuclei = settings.get("cell") == "nucleus"
    check_checkpoint(settings, path, competitions.get(args.competition, args.classes, nuclei))
    for name in ("arch", "num_classes", "in_channels", "puzzle"):
        if getattr(args, name) not in (None, settings.get(name, 0)):
            raise UserError(f"--{name} {getattr(args, name)}: {path} was trained with --{name} {settings.get(name, 0)}")
    for name in FROM_CHECKPOINT:
        if getattr(args, name) is None:
            setattr(args, name, settings[name])
    args.cellorimage = args.cellorimage or settings["cell"]
    args.loss, args.settings = settings["loss"], settings
    args.trained_on = settings.get("dataset", "train")
    args.pool = settings.get("pool")
    if (args.cellorimage == "nucleus") != (settings["cell"] == "nucleus"):
        raise UserError(f"--cellorimage {args.cellorimage}: {path} was trained with --cell {settings['cell']}")
    args.from_image = finds_in_images(args.cellorimage, settings)
    args.cells_per_image = settings.get("cells_per_image")
    args.with_cells = args.cellorimage == "image" and wrapper_of(args.arch) is DuoBranch
    if args.with_cells and args.crop_dir is None:
        raise UserError(f"--cellorimage image: {args.arch} judges an image with its cells, the crops of --crop_dir")
    if args.cache_dir is None and (args.from_image or args.cellorimage == "nucleus"):
        raise UserError(f"--cellorimage {args.cellorimage}: {args.arch} finds them by the label images of --cache_dir")


def check_checkpoint(settings: dict, path: Path, competition: Competition) -> None:
    """UserError when a network of these settings cannot tell the classes of `competition`."""
    lacking = [name for name in (*FROM_CHECKPOINT, "cell", "loss") if name not in settings]
    if lacking:
        raise UserError(f"{path} does not say its --{lacking[0]}; a checkpoint of train.py does")
    if task_of(settings["arch"]) != "classify":
        raise UserError(f"{path} finds cells, it does not classify them: segment.py --weights takes it")
    own, count = settings["num_classes"], len(competition.CLASSES)
    if own != count:
        raise UserError(f"{path} knows {own} classes, {competition.name} has {count}; --classes names others")


def finds_in_images(cellorimage: str, settings: dict) -> bool:
    """Whether a checkpoint of these settings predicts single cells from whole images."""
    return cellorimage == "cell" != settings["cell"] and wrapper_of(settings["arch"]) in (MaskPooled, PuzzleCAM)


def network(args: Namespace, checkpoint: dict, path: Path) -> Classifier:
    """The checkpoint's network with its weights."""
    competition = competitions.get(args.competition, args.classes, nuclei=args.cellorimage == "nucleus")
    criterion = build_loss(args.loss, np.ones(args.num_classes))
    if args.preload:
        net = untrained(args, checkpoint["model"], path, competition)
        return Classifier(net, criterion, competition.MEAN, competition.STD)
    net = build(args.arch, args.num_classes, args.in_channels, args.crop_size)
    kind, options = wrapper_of(args.arch), {}
    if issubclass(kind, BagOfCells):
        options = {"pool": args.pool}
    elif kind is PuzzleCAM:
        options = {"puzzle": False, "cam_pool": args.cam_pool}
    model = kind(net, criterion, competition.MEAN, competition.STD, **options)
    load_model(model, checkpoint, path, "--predict_epoch")
    return model


def untrained(args: Namespace, weights: dict[str, torch.Tensor], path: Path, competition: Competition) -> nn.Module:
    """The network of --preload bestfitting, giving logits of the competition's classes."""
    classes = len(weights[LAST[1]])
    if classes not in (OLD_CLASSES, args.num_classes):
        raise UserError(f"--network_path {path} knows {classes} classes; {OLD_CLASSES} or {args.num_classes} are right")
    net = build(args.arch, classes, args.in_channels, args.crop_size)
    load_bestfitting(net, weights, f"--network_path {path}")
    return net if classes == args.num_classes else NewClasses(net, competition.OLD_CLASSES)


def open_dataset(args: Namespace, seed: int) -> Samples | LabelledImages | Bags:
    """The samples of --dataset, changed as the seed says."""
    if args.from_image and seed:
        raise UserError(f"--seed {seed}: a random crop would cut off cells of a whole image; 0 is right")
    kind = "image" if args.from_image or args.cellorimage == "image" else "cell"
    datasets, images = args.dataset, None
    if args.dataset == "valid":
        datasets = args.trained_on
        competition = competitions.get(args.competition, args.classes)
        check_split(args, competition)
        images = read_fold(args.folds_dir, args.split_name, args.fold, competition)[1]
    else:
        suffix = ".zip" if kind == "cell" else ".png"
        folder = existing(Path(args.img_dir) / args.dataset, "--dataset")
        images = pd.DataFrame({"ID": sorted(path.stem for path in folder.glob(f"[!.]*{suffix}"))})
    opened = partial(
        open_samples, images, args.dataset, datasets=datasets, targets=None,
        augment=TestCrop(seed > 0, bool(args.BGR)), img_size=args.img_size, crop_size=args.crop_size, seed=seed,
    )  # fmt: skip
    samples = opened(kind=kind, root=args.img_dir, flag="--img_dir")
    if args.with_cells:
        return bags_of(opened(kind="cell", root=args.crop_dir, flag="--crop_dir"), args.cells_per_image, samples)
    if args.cellorimage == "nucleus":
        return nuclei_of(samples, args.cache_dir, datasets)
    return with_labels(samples, args.cache_dir, datasets) if args.from_image else samples


def check_split(args: Namespace, competition: Competition) -> None:
    """UserError when the network was trained on another split or fold: images that it knows might be among these."""
    trained = args.settings
    name = split_file(trained["cell"] != "image" and competition.CELL_LABELS)
    known = trained.get(TABLES, {}).get(f"--split_name {name}")
    path = Path(args.folds_dir) / args.split_name / name
    if known and path.is_file() and known != digest(path):
        raise UserError(f"--dataset valid: {path} is not the split that the network was trained with")
    if "fold" in trained and trained["fold"] != args.fold:
        raise UserError(f"--dataset valid --fold {args.fold}: the network was trained on this fold's images; its own "
            f"is {trained['fold']}")  # fmt: skip


@dataclass
class TestCrop:
    """The change of an image before its views: a random crop or the whole, and the channels blue first on demand."""

    random: bool
    blue_first: bool

    def __call__(
        self, image: np.ndarray, crop_size: int, generator: np.random.Generator, resize: Resize = resize
    ) -> np.ndarray:
        image = (random_crop if self.random else whole)(image, crop_size, generator, resize)
        channels = self.blue_first and image.ndim == 3  # a label image has none
        return image[..., [2, 1, 0, *range(3, image.shape[2])]] if channels else image


if __name__ == "__main__":
    run(main)
