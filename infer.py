"""From test images to submission.csv in one go, with the models that an ensemble CSV names, against the clock.

    python infer.py --competition hpa --ensemble ensemble_configs/ensemble_kaggle016.csv \\
        --metadata DATA/sample_submission.csv --root_dir DATA/test --base_dir RESULTS --work_dir WORK \\
        --out_path submission.csv --views all --seeds 1 --time_limit 8h30m

Does what segment.py, test.py (each model, epoch, fold, seed and view), convertpredictions.py and ensemble.py do one
after another, to the same numbers. The CSV's tables must be called probabilities_<model>_<epoch>.csv; the checkpoints
are RESULTS/models/<model>/fold<k>/<NNN>.pth, or best.pth where <epoch> is best. All of a model's folds are used; when
one of them lacks the epoch, the run ends before it begins and says so, unless --folds names others. The flags of the
finder are segment.py's (--augment: its views; --views: the classifiers'), those of the rules ensemble.py's.

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
failed, or no pass was done at all. With a limit the submission is valid with either; without one a run of which every
network fails ends with exit code 2 and writes none.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import competitions
import ensemble
import segment
from cells.table import write_table
from common.errors import UserError, explain, run, some
from common.files import remove_leftovers, sole_writer
from common.say import say
from common.times import process_age
from common.workers import count_workers
from engine.clock import NO_TIME, start_clock

if TYPE_CHECKING:
    from engine.passes import Pass

LEFT_OUT = ["Stage", "Model", "Fold", "Seed", "View", "Image", "Reason"]


def get_args_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
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
    add("--folds", help="of every model, joined by commas; default: all of each, and each must have the CSV's epoch")
    add("--img_size", type=int, help="side of the stored whole images; default: the largest that networks read them at")
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
    args.workers = count_workers(args.workers)
    before = clock.left()
    from engine.road import Road  # with torch, for which the processes that find cells, too, would wait at the top

    if clock.limited:  # a machine that is slow to begin is slow to end
        clock = clock.minus((before - clock.left()) / 3)
    road = Road(args, clock)
    with ExitStack() as stack:
        for folder in sorted({path.resolve() for path in (road.work, road.out.parent)}):
            stack.enter_context(sole_writer(folder))
        for name in ("config", "tables"):
            remove_leftovers(road.work / name)
        if clock.limited and not road.has_submission():
            road.write_blank()
        found = road.find_cells()
        done, left = road.make_passes(found)
        if not done and found.cells and not clock.limited:
            raise UserError(left[0][1])
        if not (found.cells or found.left):
            road.write_blank()
        list_left_out(road.out, found, left)
    failed = any(reason != NO_TIME for _, reason in left)
    return 1 if found.skipped or found.left or failed or not done else None


def list_left_out(out: Path, found: segment.Outcome, left: Sequence[tuple["Pass", str]]) -> None:
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
    try:
        write_table(pd.DataFrame(rows, columns=LEFT_OUT, dtype=object).fillna("").astype(str), path)
    except OSError as error:  # of a full disk: the submission is there all the same
        say(f"{path} is not written: {explain(error)}", sys.stderr)
    for own, reason in left:
        say(f"left out: {own}, {some(own.views, 8)}: {reason}")
    if found.left:
        say(f"not reached: {some(found.left)}; submitted without cells")
    say(f"{len(rows)} passes and images are left out, see {path}")


if __name__ == "__main__":
    run(main)
