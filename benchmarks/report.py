"""How long report.py takes and how large its page is: 559 test images of 2048 pixels, 14,400 cells, 18 models.

    python benchmarks/report.py [--images 559] [--drawn 8] [--size 2048] [--keep FOLDER]

Makes a results folder of that size: --drawn images are made up and their cells found by synthesize.py and segment.py,
then each stands for many images under other names (their crops are links). The probabilities are those of made-up
models. With --keep the folder stays, to look at its page.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from benchmarks.tables import timed  # noqa: E402
from cells.table import KEY, read_table, write_table  # noqa: E402
from common.errors import run  # noqa: E402
from competitions.hpa import CLASSES, multi_hot  # noqa: E402

MODELS = 18  # of them two thirds of cells, the others of images
CELLS = 25.8  # an image has on average


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=559)
    parser.add_argument("--drawn", type=int, default=8)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--keep", help="a folder to make it all in, and to leave it")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make the folder, run report.py, print what it takes."""
    args = get_args_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        out = Path(args.keep or name)
        cells = make_results(out, args.images, args.drawn, args.size)
        words = [sys.executable, ROOT / "report.py", out, "--truth", out / "truth.csv"]
        seconds, memory = timed(words)
        size = (out / "report.html").stat().st_size / 1e6
    print(f"report.py, {args.images} images, {cells} cells, {MODELS} models: {seconds:.1f} s, {memory:.0f} MB, "
          f"a page of {size:.2f} MB")  # fmt: skip


def make_results(out: Path, images: int, drawn: int, size: int) -> int:
    """Write the folder; gives the number of cells."""
    small, generator = out / "drawn", np.random.default_rng(0)
    per_image = f"{int(CELLS) - 2}-{int(CELLS) + 4}"
    call("synthesize.py", "--competition", "hpa", "--out_dir", small, "--train", 1, "--test", drawn, "--size", size,
         "--cells", per_image, "--jobs", 1)  # fmt: skip
    call("segment.py", "--metadata", small / "sample_submission.csv", "--root_dir", small / "test", "--workers", 0,
         "--meta_dir", small / "meta", "--crop_dir", small / "crops", "--img_dir", small / "images",
         "--cache_dir", small / "cache")  # fmt: skip
    cells = read_table(small / "meta" / "sample_submission_cell.csv", {"ImageID": str})
    truth = read_table(small / "truth.csv", {"ImageID": str, "Label": str})
    sources = np.resize(truth["ImageID"].unique(), images)
    (out / "crops" / "test").mkdir(parents=True)
    for number, source in enumerate(sources):
        os.link(small / "crops" / "test" / f"{source}.zip", out / "crops" / "test" / f"{number:03d}-{source}.zip")
    found = repeated(cells, sources)
    found["Image"] = found["ImageID"] + "+" + found["CellID"].astype(str)
    write_table(found, out / "meta" / "sample_submission_cell.csv")
    write_table(repeated(truth, sources), out / "truth.csv")
    make_models(out, found, truth, generator)
    return len(found)


def call(*words: object) -> None:
    """Run a script of this repository."""
    subprocess.run([sys.executable, ROOT / str(words[0]), *map(str, words[1:])], check=True, stderr=subprocess.DEVNULL)


def repeated(table: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    """The rows of images, again and again under the names `<number>-<source>`."""
    own = dict(list(table.groupby("ImageID", sort=False)))
    parts = [own[source].assign(ImageID=f"{number:03d}-{source}") for number, source in enumerate(sources)]
    return pd.concat(parts, ignore_index=True)


def make_models(out: Path, found: pd.DataFrame, truth: pd.DataFrame, generator: np.random.Generator) -> None:
    """Tables of probabilities near the images' labels, their ensemble, scores, and runs with logs."""
    labels = truth[truth["Label"] != ""].groupby("ImageID")["Label"].first()
    hot = multi_hot(labels.reindex(found["ImageID"].str[4:], fill_value="18"))
    images = found["ImageID"].drop_duplicates()
    rows, total = [], np.zeros(hot.shape)
    for number in range(MODELS):
        kind = "cell" if number < MODELS * 2 // 3 else "image"
        probs = np.clip(0.5 * hot + generator.beta(0.6, 3, hot.shape), 0, 1)
        own = found[KEY] if kind == "cell" else pd.DataFrame({"ImageID": images, "CellID": 0})
        table = pd.DataFrame(probs[own.index], columns=list(CLASSES), index=own.index)
        name = f"probabilities_{kind.title()}_{number}_6.csv"
        write_table(pd.concat([own, table], axis=1), out / "tables" / name)
        rows.append((name, kind, *generator.random(len(CLASSES)).round(2) + 0.1))
        total += probs / MODELS
        make_run(out / "results" / "models" / f"{kind.title()}_{number}" / "fold0", generator)
    write_table(pd.DataFrame(rows, columns=["Predictions", "Type", *CLASSES]), out / "ensemble.csv")
    combined = pd.DataFrame(total, columns=list(CLASSES))
    write_table(pd.concat([found[KEY], combined], axis=1), out / "ensemble_ensemble.csv")
    for name in ("submission", "cell", "image"):
        scores = pd.DataFrame({"Class": [*CLASSES, "mean"], "AP": generator.random(len(CLASSES) + 1), "Truths": 700})
        write_table(scores, out / ("" if name == "submission" else "steps") / f"score_{name}.csv")


def make_run(folder: Path, generator: np.random.Generator) -> None:
    """A training run's settings and log."""
    epochs = np.arange(1, 36)
    falls = np.exp(-epochs / 8)
    noise = generator.normal(0, 0.01, (3, len(epochs)))
    log = {"epoch": epochs, "train_loss": falls + noise[0], "valid_loss": 0.9 * falls + 0.1 + noise[1]}
    write_table(pd.DataFrame({**log, "pr_auc": 0.6 - 0.4 * falls + noise[2]}), folder / "log.csv")
    settings = {"competition": "hpa", "arch": "class_densenet121_dropout", "loss": "BCE", "img_size": 768}
    (folder / "settings.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    run(main)
