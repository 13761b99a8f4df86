"""The notebook and the two metadata files that the official `kaggle` client reads."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from common.errors import UserError

PLACES = '''\
import os
import subprocess
import sys
from pathlib import Path

# Where Kaggle keeps things; the environment says so elsewhere.
INPUT = Path(os.environ.get("PODIUM_INPUT", "/kaggle/input"))
WORKING = Path(os.environ.get("PODIUM_WORKING", "/kaggle/working"))
SCRATCH = Path(os.environ.get("PODIUM_SCRATCH", "/tmp/podium"))


def mounted(*names):
    """The first of these inputs that is there: where Kaggle mounts them has changed."""
    for name in names:
        if (INPUT / name).is_dir():
            return INPUT / name
    raise FileNotFoundError(f"{names[0]} is not in {INPUT}: add it to this notebook as input")


BUNDLE = {bundle}
DATA = {data}
if not (BUNDLE / "code" / "infer.py").is_file():
    raise FileNotFoundError(f"{BUNDLE} has no code/infer.py: upload the bundle with --dir-mode zip")
'''

INSTALL = '''\
# From the bundle alone. No dependencies: the image has them, and its torch stays as it is.
wheels = BUNDLE / "wheels"
pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--find-links", wheels]
subprocess.run([*pip, "-r", wheels / "wheels.txt"], check=True)
'''

PREDICT = '''\
# The test set is read as it lies there now: the hidden one is larger than the public one. Inputs are read-only.
submission = WORKING / "submission.csv"
command = [
    sys.executable, BUNDLE / "code" / "infer.py",
{flags}
]
SCRATCH.mkdir(parents=True, exist_ok=True)
own = {
    "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(SCRATCH / "numba"),
    "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "30",
}
ended = subprocess.run([str(word) for word in command], env={**os.environ, **own}).returncode
'''

REPORT = '''\
# 1 with a list: something was left out, the submission is valid. Else infer.py failed, which must be seen when you save
# a version; in the rerun that is scored nobody looks, and what there is counts.
whole = ended == 0 or ended == 1 and (WORKING / "submission_left_out.csv").is_file()
if not submission.is_file() or not (whole or os.environ.get("KAGGLE_IS_COMPETITION_RERUN")):
    raise RuntimeError(f"infer.py ended with exit code {ended}: its last lines say why")
print(f"{submission}: {submission.stat().st_size} bytes; exit code {ended}")
'''


class Names(NamedTuple):
    """Who and what on Kaggle."""

    username: str
    dataset: str
    kernel: str
    competition: str


def check_slug(slug: str, flag: str) -> str:
    """`slug` if Kaggle takes it for a dataset or kernel whose title is made from it."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) or not 6 <= len(slug) <= 50:
        raise UserError(f"{flag} {slug!r} must be 6 to 50 small letters and digits with single hyphens between them")
    return slug


def check_name(name: str, flag: str) -> str:
    """`name` if it can be that of a person or a competition in Kaggle's addresses."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"{flag} {name!r} must be letters, digits and hyphens, as at the end of its address")
    return name


def dataset_metadata(names: Names) -> dict:
    """dataset-metadata.json: fields of `kaggle datasets create`, https://github.com/Kaggle/kaggle-cli/wiki."""
    return {
        "title": names.dataset.replace("-", " "),
        "id": f"{names.username}/{names.dataset}",
        "subtitle": "Code, weights and wheels for an offline notebook",
        "description": "A Podium bundle: what its notebook needs to predict without internet. manifest.json lists it.",
        "licenses": [{"name": "other"}],
    }


def kernel_metadata(names: Names, notebook: str, machine: str) -> dict:
    """kernel-metadata.json: fields of `kaggle kernels push`. The slug is the title with hyphens, as Kaggle wants it."""
    return {
        "id": f"{names.username}/{names.kernel}",
        "title": names.kernel.replace("-", " "),
        "code_file": notebook,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "machine_shape": machine,
        "dataset_sources": [f"{names.username}/{names.dataset}"],
        "competition_sources": [names.competition],
        "kernel_sources": [],
        "model_sources": [],
    }


def notebook(names: Names, flags: Sequence[str], about: str, wheels: bool) -> dict:
    """The notebook, nbformat 4.5. flags: infer.py's, as lines of a list in Python; wheels: whether there are any."""
    bundle = f"mounted({names.dataset!r}, {f'datasets/{names.username}/{names.dataset}'!r})"
    data = f"mounted({names.competition!r}, {f'competitions/{names.competition}'!r})"
    places = PLACES.replace("{bundle}", bundle).replace("{data}", data)
    predict = PREDICT.replace("{flags}", "\n".join(f"    {line}" for line in flags))
    cells = [
        ("about", "markdown", about),
        ("places", "code", places),
        *([("install", "code", INSTALL)] if wheels else []),
        ("predict", "code", predict),
        ("report", "code", REPORT),
    ]
    return {
        "cells": [cell(*one) for one in cells],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cell(name: str, kind: str, text: str) -> dict:
    """A cell of a notebook."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {
        "cell_type": kind, "id": name, "metadata": {}, "source": text.strip().splitlines(keepends=True), **code,
    }  # fmt: skip
