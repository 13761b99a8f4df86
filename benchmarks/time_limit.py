"""The prediction half of the demo against the clock: limits of 30 %, 60 % and 100 % of what it takes without one.

    bash recipes/hpa.sh --demo && python benchmarks/time_limit.py --demo demo --work /tmp/time_limit

Each run is a process of its own in a folder of its own and starts from the images; its time is the wall's, imports
included. Prints for each limit the time that was used, the images that were reached, the passes (a network's look in
one view) that were made, and the score.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from competitions import hpa

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="OUT of recipes/hpa.sh --demo; only read")
    parser.add_argument("--work", type=Path, required=True, help="folder to write; what is in it goes")
    parser.add_argument("--shares", default="0.3,0.6,1.0", help="limits, as shares of the time without one")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    full, row = infer(args, "full", None)
    show("no limit", "-", *row)
    for share in map(float, args.shares.split(",")):
        limit = round(share * full)
        show(f"{share:.0%}", f"{limit} s", *infer(args, f"{share:.0%}", limit)[1])


def infer(args: argparse.Namespace, name: str, limit: int | None) -> tuple[float, list[str]]:
    """Seconds of a run, and the row that says what came of it."""
    work, data = args.work / name, args.demo / "data"
    shutil.rmtree(work, ignore_errors=True)
    command = [
        sys.executable, ROOT / "infer.py", "--ensemble", ROOT / "ensemble_configs" / "ensemble_kaggle016.csv",
        "--metadata", data / "sample_submission.csv", "--root_dir", data / "test", "--base_dir", args.demo / "results",
        "--work_dir", work, "--out_path", work / "submission.csv", "--seeds", "1", "--img_size", "160",
        "--workers", args.workers, *(["--time_limit", f"{limit}s"] if limit else []),
    ]  # fmt: skip
    began = time.monotonic()
    code = subprocess.run([*map(str, command)], check=False, capture_output=True).returncode
    seconds = time.monotonic() - began
    score = hpa.score(work / "submission.csv", data / "truth.csv").iloc[-1, 1]
    passes = len(list((work / "submissions").rglob("prob_test.npz")))
    cells = pd.read_csv(work / "meta" / "sample_submission_cell.csv", usecols=["ImageID"])
    row = [f"{seconds:.1f} s", f"{cells['ImageID'].nunique()}", f"{passes}", f"{score:.4f}", f"{code}"]
    return seconds, row


def show(*fields: str) -> None:
    print("".join(f"{field:>12}" for field in fields), flush=True)


if __name__ == "__main__":
    show("share", "limit", "used", "images", "passes", "mAP", "exit code")
    main()
