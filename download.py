"""Download the public Human Protein Atlas images beside the competition's, as files that every stage reads.

    python download.py --metadata DATA/kaggle_2021.tsv --root_dir DATA/external --out DATA/external.csv

Gets the four channels `<Image>_<channel>.tif.gz` of each image of the table (competitions/hpa_external.py says which)
and writes `<ID>_{red,green,blue,yellow}.png`: all four, or none when one cannot be had, is no image, or is unlike the
others in size or depth. The images that are there then make up --out: `ID,Label`, as train.csv.

The images that failed are in `<root_dir>/failed.csv`, with the reason (exit code 1). The same command again gets what
is missing, those among them. Be kind to the server: all 82,000 images are 330,000 requests, nine hours at ten a second.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from cells.table import write_table
from common.errors import UserError, run
from common.fetch import Fetcher, FetchError, gunzip
from common.files import atomic, sole_writer
from competitions.hpa import CHANNELS, decode_channel, image_files
from competitions.hpa_external import read_external

DAY = 86400  # seconds
AGENT = "hpa-single-cell-downloader (image by image, rate-limited)"


def get_args_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata", required=True, help="kaggle_2021.tsv: Image,Label,Cellline,in_trainset,Label_idx")
    parser.add_argument("--root_dir", required=True, help="folder for the images")
    parser.add_argument("--out", required=True, help="the table of the images that are there, external.csv")
    parser.add_argument("--host", help="https://host or https://host/folder to ask in place of the table's host")
    parser.add_argument("--parallel", type=int, default=8, help="images at a time; default: 8")
    parser.add_argument("--per_second", type=float, default=10, help="requests a second, in all; default: 10")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a file may take; default: 120")
    parser.add_argument("--retries", type=int, default=4, help="further tries of a file; default: 4")
    parser.add_argument("--wait", type=float, default=2, help="seconds before the first, then doubled; default: 2")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Get what is missing, write the tables of what is there and of what failed."""
    args = get_args_parser().parse_args(argv)
    check_flags(args)
    images = read_external(args.metadata)
    if images.empty:
        raise UserError(f"{args.metadata} names no image outside of the training set that has a class")
    addresses = [address_of(image, args.host, args.metadata) for image in images["Image"]]
    root = Path(args.root_dir)
    with sole_writer(root):
        todo = [
            (image, address)
            for image, address in zip(images["ID"], addresses, strict=True)
            if not is_there(root, image)
        ]
        failed = pd.DataFrame(sorted(download_all(root, todo, args)), columns=["ID", "Reason"])
        write_table(failed, root / "failed.csv")
        there = images[~images["ID"].isin(failed["ID"])]
        write_table(there[["ID", "Label"]], args.out)
    print(f"{args.out}: {len(there)} images, {len(todo) - len(failed)} of them new")  # noqa: T201
    if len(failed):
        text = f"{len(failed)} images failed, {root / 'failed.csv'} says why; the same command tries again"
        print(text, file=sys.stderr)  # noqa: T201
    return 1 if len(failed) else None


def check_flags(args: argparse.Namespace) -> None:
    """UserError when a number makes no sense."""
    for name, least in (("parallel", 1), ("retries", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)} must be {least} or more")
    for name, most in (("per_second", float("inf")), ("timeout", DAY), ("wait", DAY)):
        if not 0 < getattr(args, name) < most:
            below = f" and below {most}" if most == DAY else ""
            raise UserError(f"--{name} {getattr(args, name)} must be a number above 0{below}")


def address_of(image: str, host: str | None, name: str) -> str:
    """Where an image's files are, but for `_<channel>.tif.gz`; only http and https."""
    where = name if host is None else "--host"
    try:
        address = image if host is None else f"{host.rstrip('/')}/{urlsplit(image).path.lstrip('/')}"
        parts = urlsplit(address)
    except ValueError as error:
        raise UserError(f"{where}: {host or image} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.netloc or not address.isascii():
        raise UserError(f"{where}: {address} is not an address that begins with http:// or https://")
    return address


def is_there(root: Path, image: str) -> bool:
    """Whether an image has all its files."""
    return all(path.exists() for path in image_files(root, image))


def download_all(root: Path, todo: Sequence[tuple[str, str]], args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Download (ID, address) after (ID, address), some at a time: yields (ID, reason) of those that failed."""
    cv2.setNumThreads(1)  # the images are what is done in parallel
    fetcher = Fetcher(args.per_second, args.timeout, args.retries, args.wait, AGENT)
    with tqdm(total=len(todo), desc="download", unit="image") as bar, ThreadPoolExecutor(args.parallel) as pool:
        try:
            running = {pool.submit(download, fetcher, root, *task): task[0] for task in todo}
            for future in as_completed(running):
                bar.update()
                if isinstance(future.exception(), (UserError, FetchError)):
                    yield running[future], str(future.exception())
                else:
                    future.result()  # a disk that is full: the next image would fail, too
        finally:
            fetcher.pace.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


def download(fetcher: Fetcher, root: Path, image: str, address: str) -> None:
    """One image: its four channels, then its four files."""
    channels = [get_channel(fetcher, f"{address}_{name}.tif.gz") for name in CHANNELS]
    sizes = {channel.shape[::-1] for channel in channels}
    if len(sizes) > 1:
        raise FetchError(f"{address}: its channels differ in size: {sorted(sizes)}")
    depths = {str(channel.dtype) for channel in channels}
    if len(depths) > 1:
        raise FetchError(f"{address}: its channels differ in depth: {', '.join(sorted(depths))}")
    for path, channel in zip(image_files(root, image), channels, strict=True):
        with atomic(path) as temporary:
            temporary.write_bytes(cv2.imencode(".png", channel)[1].tobytes())


def get_channel(fetcher: Fetcher, address: str) -> np.ndarray:
    """One channel, (height, width) of 8 or 16 bits."""
    try:
        content = gunzip(fetcher.get(address))
    except FetchError as error:
        raise FetchError(f"{address}: {error}") from None
    return decode_channel(content, address)


if __name__ == "__main__":
    run(main)
