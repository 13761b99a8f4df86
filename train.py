"""Train a network on the images or cells that segment.py wrote.

    python train.py --out_dir Cell_BCE --loss BCE --cell cell --split_name random_folds10 --fold 0 \\
        --result_dir RESULTS --img_path CROPS

Writes RESULTS/models/<out_dir>/fold<k>/: <NNN>.pth after each epoch, best.pth, last.pth, settings.json, log.csv and
curves.png. The same command run again goes on where the last one ended, after a kill -9 too, to the same numbers.
A flag that is not given takes the competition's published default.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import torch
from lightning_fabric import Fabric

import competitions
from augment import TRAIN
from augment.crops import whole
from common.errors import UserError, choose, run
from common.files import sole_writer
from engine.checkpoints import load_model, read, run_folder
from engine.data import Samples, balanced_weights
from engine.device import describe, make_fabric
from engine.samples import open_samples, read_fold
from engine.schedules import STEPS, learning_rate
from engine.settings import claim_folder, read_settings, resolve
from engine.targets import apply_targets
from engine.train import Plan, fit
from losses import LOSSES, build_loss
from models import MODELS, Classifier, build
from models.bestfitting import load_bestfitting, read_bestfitting
from models.weights import load_pretrained


def get_args_parser() -> argparse.ArgumentParser:
    """The command line; defaults of None come from the competition's TRAIN_DEFAULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--competition", default="hpa", help=f"one of {', '.join(competitions.COMPETITIONS)}")
    add("--out_dir", required=True, help="the run's name")
    add("--result_dir", default="results", help="the folder of all runs")
    # What it sees.
    add("--img_path", required=True, help="segment.py's --crop_dir (cells) or --img_dir (images)")
    add("--cell", choices=["cell", "image"], default="image", help="train on single cells or on whole images")
    add("--dataset", default="train", help="dataset folders below --img_path, joined by commas: train,external")
    add("--split_name", help="a folder of --folds_dir")
    add("--folds_dir", default="cv_folds", help="where makefolds.py wrote")
    add("--fold", type=int, default=0, help="the fold to validate on")
    add("--img_size", type=int, help="pixels a side that an image or cell is read at")
    add("--crop_size", type=int, help="pixels a side that the network sees: random crops of this side to img_size")
    add("--augment", choices=list(TRAIN), help="random changes in training")
    add("--sample", type=int, default=0, help="draw this many class-balanced samples an epoch (0: every sample once)")
    add("--soft_labels", help="a probabilities table: targets of the training samples in place of the images' labels")
    add("--labelmask", help="a table ID,<class names> with 1 where a label counts and 0 where it is unknown")
    # What it is.
    add("--arch", help=f"{', '.join(MODELS)} with any timm network as <timm>, as class_densenet121_dropout")
    add("--num_classes", type=int, help="the number of classes, checked against the competition's")
    add("--in_channels", type=int, help="image channels: 4")
    add("--pretrained", help="weights to start from: a file, or efficientnet-lite0 for the packaged ImageNet weights")
    add("--resume", help="a checkpoint of train.py: with --preload to start from, else the last.pth to go on from")
    add("--preload", choices=["self", "bestfitting"],
        help="begin at epoch 1 with the weights of --resume: train.py's own, or a DenseNet of the 2018 competition, "
             "whose last layer is replaced")  # fmt: skip
    add("--puzzle", type=int, choices=[0], default=0, help="0: no PuzzleCAM")
    # How it learns.
    add("--loss", help=f"one of {', '.join(LOSSES)}")
    add("--scheduler", help=f"one of {', '.join(STEPS)}")
    add("--lr", type=float, help="the first epoch's learning rate; the schedule's later ones change in proportion")
    add("--epochs", type=int)
    add("--batch_size", type=int)
    add("--effective_batch", type=int, help="samples an optimiser step: a multiple of batch_size x number of GPUs")
    add("--clipnorm", type=float, help="largest gradient norm, 0: no clipping")
    add("--seed", type=int, default=1)
    # Where and how fast.
    add("--gpu_id", default="0", help="GPUs joined by commas, or cpu; without any GPU the CPU is used")
    add("--mixed_precision", type=int, choices=[0, 1], default=1, help="float16 on a GPU")
    add("--resetscale", type=int, choices=[0, 1], default=0, help="1: begin with a fresh loss scale when going on")
    add("--workers", type=int, default=0, help="processes that read and augment")
    add("--save_minutes", type=float, default=20, help="save the state inside an epoch at least this often")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = get_args_parser().parse_args(argv)
    competition = competitions.get(args.competition)
    if args.batch_size and not args.effective_batch:
        args.effective_batch = args.batch_size
    resolve(args, {"num_classes": len(competition.CLASSES), **competition.TRAIN_DEFAULTS})
    check(args, competition)
    folder = run_folder(args.result_dir, args.out_dir, args.fold)
    if args.resume and not args.preload:
        go_on(args, folder)
    fabric = make_fabric(args.gpu_id, bool(args.mixed_precision))
    fabric.launch()
    with sole_writer(folder) if fabric.global_rank == 0 else nullcontext():
        claim_folder(folder, vars(args))
        train(args, competition, folder, fabric)


def check(args: argparse.Namespace, competition: ModuleType) -> None:
    """Refuse flags that contradict each other or the competition."""
    choose(LOSSES, args.loss, "--loss")
    choose(STEPS, args.scheduler, "--scheduler")
    if args.loss == "ArcFace" and not args.arch.endswith("_arcface"):
        raise UserError(f"--loss ArcFace needs the cosines of --arch class_<timm>_arcface, not of {args.arch}")
    if args.num_classes != len(competition.CLASSES):
        raise UserError(f"--num_classes {args.num_classes}: {args.competition} has {len(competition.CLASSES)} classes")
    if args.in_channels != len(competition.CHANNELS):
        raise UserError(f"--in_channels {args.in_channels}: {args.competition} images have {len(competition.CHANNELS)}")
    if args.preload and not args.resume:
        raise UserError("--preload needs --resume, the checkpoint to take the weights from")
    for name in ("epochs", "batch_size", "img_size", "crop_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} must be at least 1")
    if args.crop_size > args.img_size:
        raise UserError(f"--crop_size {args.crop_size} must not exceed --img_size {args.img_size}")


def go_on(args: argparse.Namespace, folder: Path) -> None:
    """--resume without --preload goes on with this very run: only its own last.pth can be meant."""
    own = folder / "last.pth"
    if not own.exists() or Path(args.resume).resolve() != own.resolve():
        raise UserError(
            f"--resume {args.resume} without --preload goes on with the run in {folder}, whose state is {own}; "
            "to start a run from other weights add --preload self"
        )
    before = read_settings(folder / "settings.json")
    args.resume, args.preload = before["resume"], before["preload"]


def train(args: argparse.Namespace, competition: ModuleType, folder: Path, fabric: Fabric) -> None:
    """Build everything that the flags name and hand it to the loop."""
    say = fabric.print
    say(describe(fabric))
    train_samples, valid_samples = samples(args, competition)
    say(f"{len(train_samples)} training and {len(valid_samples)} validation {args.cell}s, fold {args.fold}")
    model = network(args, competition, starts=not (folder / "last.pth").exists(), say=say)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate(args.scheduler, 1))
    plan = Plan(
        folder=folder,
        settings=vars(args),
        classes=competition.CLASSES,
        epochs=args.epochs,
        batch_size=args.batch_size,
        accumulate=accumulation(args, fabric.world_size),
        clip_norm=args.clipnorm,
        learning_rate=rates(args),
        seed=args.seed,
        workers=args.workers,
        draw_weights=balanced_weights(train_samples.targets) if args.sample else None,
        draws=args.sample,
        save_minutes=args.save_minutes,
    )
    progress = fit(fabric, *fabric.setup(model, optimizer), plan, train_samples, valid_samples, say)
    say(f"{folder}: {args.epochs} epochs done, best PR-AUC in epoch {progress.best}")


def samples(args: argparse.Namespace, competition: ModuleType) -> tuple[Samples, Samples]:
    """Training and validation samples of the fold."""
    train_images, valid_images = read_fold(args.folds_dir, args.split_name, args.fold, competition)
    common = {
        "kind": args.cell, "root": args.img_path, "datasets": args.dataset, "flag": "--img_path",
        "targets": competition.multi_hot, "img_size": args.img_size, "crop_size": args.crop_size, "seed": args.seed,
    }  # fmt: skip
    train_samples = open_samples(train_images, "training", augment=TRAIN[args.augment], **common)
    valid_samples = open_samples(valid_images, "validation", augment=whole, **common)
    apply_targets(train_samples, valid_samples, args.soft_labels, args.labelmask, competition.CLASSES)
    return train_samples, valid_samples


def network(args: argparse.Namespace, competition: ModuleType, starts: bool, say: Callable[[str], None]) -> Classifier:
    """The network of the flags; when the run `starts` (it does not go on), with the weights that it starts from."""
    torch.manual_seed(args.seed)
    net = build(args.arch, args.num_classes, args.in_channels, args.crop_size)
    if starts and args.pretrained and not args.preload:
        fresh = load_pretrained(net, args.pretrained)
        say(f"--pretrained {args.pretrained}: layers with a random start: {', '.join(fresh) or 'none'}")
    criterion = build_loss(args.loss, competition.CLASS_WEIGHTS)
    model = Classifier(net, criterion, competition.MEAN, competition.STD)
    if starts and args.preload == "bestfitting":
        fresh = load_bestfitting(net, read_bestfitting(args.resume, "--resume"), f"--resume {args.resume}")
        say(f"--preload bestfitting: layers with a random start: {', '.join(fresh) or 'none'}")
    if starts and args.preload == "self":
        load_model(model, read(args.resume, "--resume"), args.resume, "--resume")
    return model


def accumulation(args: argparse.Namespace, gpus: int) -> int:
    """Batches an optimiser step."""
    together = args.batch_size * gpus
    if args.effective_batch % together:
        raise UserError(
            f"--effective_batch {args.effective_batch} must be a multiple of --batch_size x GPUs = {together}"
        )
    return args.effective_batch // together


def rates(args: argparse.Namespace) -> Callable[[int], float]:
    """epoch -> learning rate."""
    scale = args.lr / learning_rate(args.scheduler, 1) if args.lr else 1.0
    return lambda epoch: scale * learning_rate(args.scheduler, epoch)


if __name__ == "__main__":
    run(main)
