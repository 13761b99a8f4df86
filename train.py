"""Train a network: on the images or cells that segment.py wrote, or on the labelled cells of whole images (a finder).

    python train.py --out_dir Cell_BCE --loss BCE --cell cell --split_name random_folds10 --fold 0 \\
        --result_dir RESULTS --img_path CROPS
    python train.py --competition riva --arch centernet_resnet50 --out_dir Detector --split_name random_folds5 \\
        --fold 0 --result_dir RESULTS --metadata DATA/annotations/train.csv --root_dir DATA/images/train

What is trained follows from --arch: a classifier, a detector (boxes, masks), a network of class maps.
Writes RESULTS/models/<out_dir>/fold<k>/: <NNN>.pth after each epoch, best.pth, last.pth, settings.json, log.csv and
curves.png. The same command run again goes on where the last one ended, after a kill -9 too, to the same numbers.
A flag that is not given takes the competition's published default.
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

import competitions
from augment import TRAIN
from augment.maps import MAPS, MapMixup
from augment.mixing import Mixing
from augment.scenes import SCENES
from cells.images import doubled
from common.errors import UserError, run
from common.files import digest, sole_writer, text_digest
from competitions import Competition
from engine.checkpoints import run_folder
from engine.device import describe, enough_memory, make_fabric
from engine.optimizers import OPTIMIZERS, batch_norms, make_optimizer
from engine.samples import split_file
from engine.schedules import SCHEDULERS, Span, annealed, make_rate
from engine.settings import SAMPLES, TABLES, claim_folder, read_settings
from engine.train import Mix, Plan, fit
from losses import LOSSES
from losses.segmentation import MAP_LOSSES
from models import ARCHITECTURES, task_of
from tasks import TASKS, weak_labels
from tasks.flags import settle


def get_args_parser() -> argparse.ArgumentParser:
    """The command line; defaults of None come from the competition's TRAIN_DEFAULTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    competitions.add_flags(parser)
    add("--out_dir", required=True, help="the run's name")
    add("--result_dir", default="results", help="the folder of all runs")
    # What it sees.
    add("--img_path", help="classifiers: segment.py's --crop_dir (cells) or --img_dir (images)")
    add("--cell", choices=["cell", "image", "nucleus"], default="image",
        help="train on single cells, on whole images, or on nuclei alone (hpa: 7 classes, the protein's channel)")
    add("--dataset", default="train", help="dataset folders below --img_path, joined by commas: train,external")
    add("--external", help="classifiers: download.py's table of further training images; with --dataset train,external")
    add("--external_groups", help="findduplicates.py's table of both: near copies of validation images are left out")
    add("--metadata", help="finders: the table of labelled cells")
    add("--root_dir", help="finders: the folder of the images")
    add("--split_name", help="a folder of --folds_dir")
    add("--folds_dir", default="cv_folds", help="where makefolds.py wrote")
    add("--fold", type=int, default=0, help="the fold to validate on")
    add("--test_fold", type=int, help="a fold that is left out of training and validation, to be scored later")
    add("--img_size", type=int, help="pixels a side that an image or cell is read at; finders: its longer side")
    add("--crop_size", type=int, help="pixels a side that the network sees: random crops of this side to img_size")
    add("--augment", help=f"random changes in training: {', '.join({**TRAIN, **SCENES, **MAPS})}")
    add("--sample", type=int, help="draw this many class-balanced samples an epoch (0: every sample once, -1: as many)")
    add("--balance", type=float, help="--sample: 1: each class as often; 0: each sample; between: to this power")
    add("--soft_labels", help="a probabilities table: targets of the training samples in place of the images' labels")
    add("--pseudo_labels", help="classifiers: the same of images outside of the split, which are trained on, too; with "
        "--dataset train,test")  # fmt: skip
    add("--labelmask", help="a table ID,<class names> with 1 where a label counts and 0 where it is unknown")
    add("--progressive", type=int, help="class maps: pixels a side in the first epoch, up to --img_size; 0: no")
    add("--depths", type=int, choices=[0, 1],
        help="class maps: 1: of how deep a pixel lies in its cell, which parts cells that touch; 0: of its class")
    add("--tile", type=int, help="class maps: windows of about so many pixels at random scales; 0: whole images")
    add("--diameter", type=float, help="--tile: show each image at the scale that gives its own cells this median "
        "diameter, in pixels; 0: all at one scale")  # fmt: skip
    add("--stretch", type=int, choices=[0, 1], help="class maps: 1: stretch the grey values of each image to 0..255")
    add("--raw", type=int, choices=[0, 1],
        help="class maps: 1: images are not prepared as the competition does (pannuke: CLAHE and z-scores)")
    add("--mosaic_epochs", type=int, help="finders: the first so many epochs show mosaics of four images")
    add("--mixup", type=float, help="alpha of MixUp; 0: none")
    add("--cutmix", type=float, help="alpha of CutMix; 0: none")
    add("--mix_share", type=float, help="the share of batches that is mixed")
    # What it is.
    add("--arch", help=f"{', '.join(ARCHITECTURES)} with any timm network as <timm>, as class_densenet121_dropout")
    add("--drop_rate", type=float, help="classifiers: dropout of timm's own heads")
    add("--num_classes", type=int, help="the number of classes; finders may also have 1, a cell of any kind")
    add("--in_channels", type=int, help="image channels: 4 for hpa, 3 for the others")
    add("--pretrained",
        help="weights to start from: a file, or efficientnet-lite0 (-lite1, -lite2) for packaged ImageNet weights")
    add("--train_blocks", type=int, help="train only the last so many blocks of the backbone; 0: all")
    add("--resume", help="a checkpoint of train.py: with --preload to start from, else the last.pth to go on from")
    add("--preload", choices=["self", "bestfitting"],
        help="begin at epoch 1 with the weights of --resume: train.py's own, or a DenseNet of the 2018 competition, "
             "whose last layer is replaced")  # fmt: skip
    weak_labels.add_flags(parser)
    # How it learns.
    add("--loss", help=f"of classifiers: {', '.join(LOSSES)}; of class maps: {', '.join(MAP_LOSSES)}")
    add("--label_smoothing", type=float, help="of the cross-entropies: the share of a target that all classes get")
    add("--optimizer", help=f"one of {', '.join(OPTIMIZERS)}")
    add("--weight_decay", type=float)
    add("--backbone_lr", type=float, help="the backbone's learning rate in parts of the others'")
    add("--scheduler", help=f"one of {', '.join(SCHEDULERS)}")
    add("--lr", type=float, help="the highest learning rate; of a step schedule the first, the later in proportion")
    add("--warmup_epochs", type=float, help="epochs in which the learning rate rises")
    add("--final_lr", type=float, help="cosine: the last learning rate in parts of --lr")
    add("--epochs", type=int)
    add("--freeze_norms", type=int, choices=[0, 1],
        help="1: the backbone's batch norms keep the statistics of its --pretrained weights, for small or mixed "
             "batches")  # fmt: skip
    add("--patience", type=int, help="stop after so many epochs without a better one; 0: never")
    add("--batch_size", type=int)
    add("--effective_batch", type=int, help="samples an optimiser step: a multiple of batch_size x number of GPUs")
    add("--clipnorm", type=float, help="largest gradient norm, 0: no clipping")
    add("--ema", type=float, help="decay of a running mean of the weights, which is judged and saved; 0: none. It is "
        "reached after (1 - decay)^-1.5 steps")  # fmt: skip
    add("--swa_start", type=int, help="swa.pth: the mean of the weights of the epochs from this one on; 0: none")
    add("--swa_lr", type=float, help="from --swa_start on: the learning rate in parts of --lr; default: 0.1")
    add("--swa_anneal", type=float, help="epochs in which the learning rate goes over to that; default: 10")
    add("--skip_nonfinite", type=int, help="batches whose loss is not finite that a run may leave out")
    add("--seed", type=int, default=1)
    # Where and how fast.
    add("--gpu_id", default="0", help="GPUs joined by commas, or cpu; without any GPU the CPU is used")
    add("--mixed_precision", type=int, choices=[0, 1], default=1, help="float16 on a GPU")
    add("--resetscale", type=int, choices=[0, 1], default=0, help="1: begin with a fresh loss scale when going on")
    add("--checkpointing", type=int, choices=[0, 1], default=0, help="class maps: 1: less memory, more time")
    add("--compile", type=int, choices=[0, 1], default=0, help="1: torch.compile the network")
    add("--fused", type=int, choices=[0, 1], default=0, help="1: the optimiser's fused kernel")
    add("--workers", type=int, default=0, help="processes that read and augment")
    add("--save_minutes", type=float, default=20, help="save the state inside an epoch at least this often")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args, competition = settled(argv)
    folder = run_folder(args.result_dir, args.out_dir, args.fold)
    if args.resume and not args.preload:
        go_on(args, folder)
    fabric = make_fabric(args.gpu_id, bool(args.mixed_precision))
    fabric.launch()
    with sole_writer(folder) if fabric.global_rank == 0 else nullcontext():
        tables = digests(args, competition)
        claim_folder(folder, vars(args), tables)
        with enough_memory("a smaller --batch_size, with the same --effective_batch, needs less"):
            train(args, competition, folder, fabric, tables)


def settled(argv: list[str] | None) -> tuple[argparse.Namespace, Competition]:
    """The flags with the defaults of the network and the competition, checked against these and each other."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    given = {name for name, value in vars(args).items() if value not in (None, 0, parser.get_default(name))}
    competition = competitions.get(args.competition, args.classes, nuclei=args.cell == "nucleus")
    settle(args, given, competition)
    return args, competition


def digests(args: argparse.Namespace, competition: Competition) -> dict[str, str]:
    """The digests of the files that say what a run learns, by flag. A folder has one where it holds the labels."""
    split = split_file(args.cell != "image" and competition.CELL_LABELS)  # as tasks.classify reads
    files = {f"--split_name {split}": Path(args.folds_dir) / args.split_name / split}
    learned = "soft_labels", "pseudo_labels", "labelmask", "external", "external_groups", "metadata"
    for name in ("resume", "pretrained", *learned):
        files[f"--{name}"] = doubled(getattr(args, name) or "")
    found = {flag: digest(path) for flag, path in files.items() if path.is_file()}
    if task_of(args.arch) == "segment" and hasattr(competition, "digest_labels"):
        found["--root_dir"] = competition.digest_labels(args.root_dir)
    own = args.classes if args.classes and competitions.is_file(args.classes) else None
    return found | ({"--classes": digest(own)} if own else {})


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


def train(
    args: argparse.Namespace, competition: Competition, folder: Path, fabric: Fabric, tables: dict[str, str]
) -> None:
    """Build everything that the flags name and hand it to the loop. tables: as of `digests`, for the checkpoints."""
    say = fabric.print
    say(describe(fabric))
    task = TASKS[task_of(args.arch)](args, competition, not (folder / "last.pth").exists(), say)
    optimizer = make_optimizer(args.optimizer, task.model, args.weight_decay, args.backbone_lr, bool(args.fused))
    rate = make_rate(args.scheduler, args.lr, task.select, Span(args.epochs, args.warmup_epochs, args.final_lr))
    if args.swa_start:
        rate = annealed(rate, args.swa_start - 1, args.swa_lr * args.lr, args.swa_anneal)
    plan = Plan(
        folder=folder,
        settings=vars(args) | {TABLES: tables, SAMPLES: text_digest("\n".join(task.train.keys))},
        epochs=args.epochs,
        batch_size=args.batch_size,
        accumulate=accumulation(args, fabric.world_size),
        clip_norm=args.clipnorm,
        rate=rate,
        seed=args.seed,
        workers=args.workers,
        draws=len(task.train) if args.sample == -1 else args.sample,
        save_minutes=args.save_minutes,
        mix=mixing(args),
        swa_start=args.swa_start,
        ema=args.ema,
        patience=args.patience,
        held=held_norms(args, task.model),
        skip_nonfinite=args.skip_nonfinite,
    )
    progress = fit(fabric, task, optimizer, plan, say)
    say(f"{folder}: {progress.epoch - 1} epochs done, best {task.select} in epoch {progress.best(task.select)}")


def mixing(args: argparse.Namespace) -> Mix | None:
    """What mixes the batches, as the flags say."""
    if not args.mixup and not args.cutmix:
        return None
    if task_of(args.arch) == "segment":
        return MapMixup(args.mixup, args.mix_share, args.num_classes + bool(args.depths) + 1)
    return Mixing(args.mixup, args.cutmix, args.mix_share)


def held_norms(args: argparse.Namespace, model: nn.Module) -> Sequence[nn.Module]:
    """The layers of --freeze_norms. A mean of weights has no statistics for others: those would have to be recomputed
    with these held, which torch's own tool cannot.
    """
    if not args.freeze_norms:
        return ()
    held = batch_norms(model)
    others = sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()) - len(held)
    if args.swa_start and others:
        raise UserError(f"--swa_start beside --freeze_norms: {args.arch} has {others} batch norms outside of its "
            "backbone; unet_light_<timm> has none")  # fmt: skip
    return held


def accumulation(args: argparse.Namespace, gpus: int) -> int:
    """Batches an optimiser step."""
    together = args.batch_size * gpus
    if args.effective_batch % together:
        raise UserError(
            f"--effective_batch {args.effective_batch} must be a multiple of --batch_size x GPUs = {together}"
        )
    return args.effective_batch // together


if __name__ == "__main__":
    run(main)
