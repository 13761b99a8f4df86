"""Every command of every recipe is one that its script takes: recipes run with a python that only notes commands."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cells.finders import refuse_other_flags

ROOT = Path(__file__).resolve().parents[1]
# Notes a command, an argument a line, and makes the tables that recipes themselves read.
STUB = """#!/usr/bin/env bash
if [ "$1" = -c ]; then exec {python} "$@"; fi
{{ printf '%s\\n' "$@"; echo =====; }} >> "$NOTED"
made=()
if [ "$1" = ensemble.py ]; then config=$(basename "$2"); fi
if [ "$1" = submit.py ]; then submission=yes; fi
while [ $# -gt 0 ]; do
    case $1 in
    --folds_dir) folds=$2 ;;
    --split_name) made+=("$folds/$2"/{{images,cells,fold0,fold1,fold2}}.csv) ;;
    --dataset) dataset=$2 ;;
    --meta_dir) made+=("$2/${{dataset}}_cell.csv" "$2"/fold{{0,1,2}}_cell.csv) ;;
    --model) model=$2 ;;
    --epoch) epoch=$2 ;;
    --out_path)
        if [ "${{submission:-}}" ]; then made+=("$2")
        else made+=("$2"/{{submission,ensemble}}_"$config" "$2/probabilities_${{model}}_$epoch.csv"); fi ;;
    --out) made+=("$2") ;;
    esac
    shift
done
for path in "${{made[@]}}"; do mkdir -p "$(dirname "$path")"; touch "$path"; done
"""
DATA = {"DATA": "data"}
RECIPES = {  # with flags, or words, after a comma beside flags, that say what is else about it
    "hpa --demo": {}, "hpa": DATA, "riva --demo": {}, "riva": DATA, "riva --mode test": DATA,
    "riva in rounds": {**DATA, "ROUNDS": "2", "PART": "val", "FOLDS": "0 1", "DETECTORS": "yolox_s:x yolox_m"},
    "cytologia --demo": {}, "cytologia": DATA, "neurons --demo": {}, "neurons": DATA, "pannuke --demo": {},
    "pannuke --demo, plain": {"PLAIN": "1"}, "pannuke": DATA, "pannuke plain": {**DATA, "PLAIN": "1"}, "dsb2018": DATA,
    "dsb2018 maskrcnn": {**DATA, "NETWORK": "maskrcnn"},
    "dsb2018 in folds": {**DATA, "N_FOLDS": "5", "FOLDS": "0 1", "PRETRAINED": "x.pth"},
    "dsb2018 elsewhere": {**DATA, "N_FOLDS": "2", "TEST": "x/other.csv", "TEST_IMAGES": "x"},
    "usiigaci": DATA, "consep": DATA, "consep other": {**DATA, "PRETRAINED": "x.pth"}, "bccd": DATA, "cric": DATA,
    "hpa_finder": DATA, "hpa_finder maskrcnn": {**DATA, "NETWORK": "maskrcnn"}, "sartorius": DATA,
    "weak_labels": {}, "weak_labels on a GPU": {"SCALE": "gpu"},
}  # fmt: skip


def noted(script: list[str], folder: Path, settings: dict[str, str]) -> list[list[str]]:
    """The python commands of a shell script that runs in `folder` as far as it writes anything."""
    (folder / "bin").mkdir()
    stub = folder / "bin" / "python"
    stub.write_text(STUB.format(python=sys.executable), encoding="utf-8")
    stub.chmod(0o755)
    (folder / "data").mkdir()
    own = {name: str(folder / value) if name == "DATA" else value for name, value in settings.items()}
    own |= {"OUT": str(folder / "out"), "NOTED": str(folder / "noted"), "WORKERS": "0"}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", *script], cwd=ROOT, env={**os.environ, **own, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [block.splitlines() for block in (folder / "noted").read_text(encoding="utf-8").split("=====\n") if block]


def takes(command: list[str]) -> None:
    """Parse a command with its script's own parser, and check the flags of a training; SystemExit or UserError."""
    script, *flags = command
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if script == "train.py":
        module.settled(flags)
        return
    parser = module.get_args_parser()
    args = parser.parse_args(flags)
    if script == "segment.py" and args.finder:
        refuse_other_flags(args, parser.get_default)


@pytest.mark.skipif(shutil.which("bash") is None, reason="recipes need bash")
@pytest.mark.parametrize("name", RECIPES)
def test_scripts_take_the_commands_of_recipes(name, tmp_path):
    recipe, *flags = name.split(",")[0].split()
    folder = "benchmarks" if recipe == "weak_labels" else "recipes"
    script = [f"{folder}/{recipe}.sh", *(flags if "--" in name else [])]
    commands = noted(script, tmp_path, RECIPES[name])
    assert len(commands) > 3
    for command in commands:
        takes(command)


def test_every_recipe_is_looked_at():
    paths = [*(ROOT / "recipes").glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")]
    assert {name.split()[0] for name in RECIPES} == {path.stem for path in paths}
