"""Put all that an offline Kaggle notebook needs into one folder, or check such a folder.

    python kaggle/bundle.py --ensemble ensemble_configs/ensemble_kaggle016.csv --base_dir RESULTS --out bundle \\
        --username NAME --competition_slug hpa-single-cell-image-classification --half 1 --views all --seeds 1
    python kaggle/bundle.py --check bundle

The bundle holds the code that infer.py imports, the checkpoints that the ensemble CSV names (weights and settings
only), the finder's weights, wheels of what Kaggle's image lacks, the notebook, the metadata of Kaggle's client and a
manifest with sizes and SHA-256. Flags that --help does not list are infer.py's and go into the notebook's command.

It is built beside --out and takes its place when it is whole. A bundle that is there already gives its wheels and is
replaced, unless files in it were changed or added. --check names missing, extra and changed files, exit code 2.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this folder is no package: `kaggle` is the official client's name

import torch  # noqa: E402
from code_files import needed_modules  # noqa: E402
from kernel_files import Names, check_name, check_slug, dataset_metadata, kernel_metadata, notebook  # noqa: E402
from wheel_files import gather, parse_target, read_pins  # noqa: E402

import competitions  # noqa: E402
import infer  # noqa: E402
from common.errors import UserError, fail, run  # noqa: E402
from common.files import digest, existing, sole_writer  # noqa: E402
from common.foreign import read_state  # noqa: E402
from common.say import say  # noqa: E402
from competitions import Competition  # noqa: E402
from engine.checkpoints import epoch_name, read, run_folder, save  # noqa: E402
from engine.clock import parse_duration  # noqa: E402
from engine.road import check_flags, find_models  # noqa: E402
from segment import make_finder  # noqa: E402

MANIFEST, FORMAT = "manifest.json", "podium bundle 1"
NOTEBOOK = "podium.ipynb"
HERE = "competition", "classes", "weights", "nuc_model", "cell_model"  # flags that the notebook has as Python source
PARTS = ("results", "finder", "code", "wheels")


def get_args_parser() -> argparse.ArgumentParser:
    """bundle.py's own flags; none may be shortened, as the others are infer.py's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--check", metavar="BUNDLE", help="verify a bundle instead of making one")
    add("--ensemble", help="the ensemble CSV")
    add("--out", help="folder of the bundle")
    competitions.add_flags(parser)
    add("--base_dir", default="results", help="train.py's --result_dir")
    add("--folds", help="of every model, joined by commas; default: all of each, and each must have the CSV's epoch")
    add("--half", type=int, choices=[0, 1], default=0, help="1: weights in half precision, half the size")
    # The finder's weights; its other flags are infer.py's.
    add("--nuc_model", help="hpacellseg: weights of the nuclei's network")
    add("--cell_model", help="hpacellseg: weights of the cells' network")
    add("--weights", help="network: checkpoints of train.py, joined by commas")
    # Kaggle's names of things.
    add("--username", help="yours")
    add("--competition_slug", help="the competition's, as in its address")
    add("--dataset_slug", help="default: podium-<name of the CSV>")
    add("--kernel_slug", help="default: <dataset slug>-notebook")
    add("--test_dir", default="test", help="folder of the test images in the competition's data; default: test")
    add("--time_limit", default="8h30m", help="of the notebook's infer.py; default: 8h30m")
    add("--machine_shape", default="NvidiaTeslaT4", help="the machine with the GPU; default: NvidiaTeslaT4")
    # Wheels.
    add("--wheel_list", default=Path(__file__).with_name("wheels.txt"), help="name==version a line; default: ours")
    add("--wheels", help="a folder to take them from; default: the package index, through pip")
    add("--no_wheels", action="store_true", help="the image has everything")
    add("--python", default="3.11,3.12", help="the image's, or several joined by commas; default: 3.11,3.12")
    add("--platform", default="manylinux2014_x86_64,manylinux_2_28_x86_64", help="the image's, joined by commas")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make a bundle, or check one: 2 when something is wrong with it."""
    parser = get_args_parser()
    args, more = parser.parse_known_args(argv)
    if args.check:
        if more:
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        wrong = problems(existing(args.check, "--check"))
        for problem in wrong:
            fail(problem)
        if not wrong:
            say(f"{args.check}: all files are as the manifest says")
        return 2 if wrong else None
    for flag in ("ensemble", "out", "username", "competition_slug"):
        if not getattr(args, flag):
            raise UserError(f"--{flag} is needed to make a bundle")
    out = Path(args.out).resolve()
    if not out.name:
        raise UserError(f"--out {args.out} must be a folder of its own")
    building = out.with_name(f".{out.name}.building")
    fresh, aside = building / "bundle", building / "before"
    with sole_writer(building):
        restore(aside, out)
        try:
            for leftover in (fresh, aside):  # of a run that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            before = claim(out)
            build(args, more, fresh, before)
            if out.exists():
                out.rename(aside)
            fresh.rename(out)
        finally:
            restore(aside, out)
            shutil.rmtree(building)
    report(Path(args.out), newer=before is not None)


def restore(aside: Path, out: Path) -> None:
    """Put the older bundle back, when the new one did not come to its place."""
    if aside.exists() and not out.exists():
        aside.rename(out)


def claim(out: Path) -> Path | None:
    """The bundle that is at `out`, if any; UserError when the folder holds something else, or more."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise UserError(f"--out {out} is there and is no bundle; choose another folder")
    for problem in problems(out):
        raise UserError(f"--out {out} is a bundle that was changed by hand ({problem}); move it away first")
    return out


def build(args: argparse.Namespace, more: Sequence[str], folder: Path, before: Path | None) -> None:
    """Fill `folder`; before: an older bundle, whose wheels are taken over."""
    competition = competitions.get(args.competition, args.classes)
    names = names_of(args)
    models = find_models(args, existing(args.ensemble, "--ensemble"), competition)
    weights, taught = copy_finder(args, folder / "finder")
    flags = infer_flags(args, more, competition, weights)
    for model in models:
        for fold in model.folds:
            name = "best.pth" if model.epoch == "best" else f"{epoch_name(int(model.epoch))}.pth"
            place = run_folder("", model.name, fold) / name
            slim(Path(args.base_dir) / place, folder / "results" / place, args.half)
    own = [f"competitions/{name}.py" for name in sorted({args.competition, *taught})]
    for name in needed_modules(ROOT, ["infer.py", *own]):
        copy(ROOT / name, folder / "code" / name)
    copy(Path(args.ensemble), folder / "ensemble" / Path(args.ensemble).name)
    if args.classes:
        (folder / "classes.txt").write_text("\n".join(competition.CLASSES), encoding="utf-8")
    if not args.no_wheels:
        add_wheels(args, folder / "wheels", before)
    about = f"# {names.kernel}\n\nMade by Podium's `kaggle/bundle.py` from `{Path(args.ensemble).name}`."
    write_json(notebook(names, flags, about, wheels=not args.no_wheels), folder / NOTEBOOK)
    write_json(dataset_metadata(names), folder / "dataset-metadata.json")
    write_json(kernel_metadata(names, NOTEBOOK, args.machine_shape), folder / "kernel-metadata.json")
    write_json(manifest(folder, args), folder / MANIFEST)


def names_of(args: argparse.Namespace) -> Names:
    """Kaggle's names, checked, the missing ones made from the CSV's."""
    plain = re.sub("[^a-z0-9]+", "-", Path(args.ensemble).stem.lower()).strip("-")
    dataset = check_slug(args.dataset_slug or f"podium-{plain}", "--dataset_slug")
    kernel = check_slug(args.kernel_slug or f"{dataset}-notebook", "--kernel_slug")
    for flag in ("username", "competition_slug"):
        check_name(getattr(args, flag), f"--{flag}")
    return Names(args.username, dataset, kernel, args.competition_slug)


def copy_finder(args: argparse.Namespace, folder: Path) -> tuple[list[tuple[str, str]], set[str]]:
    """Copy the finder's weights; its flags for them, with their values as Python source, and the competitions that the
    networks were taught in, whose modules they need.
    """
    flags, taught = [], set()
    for flag in ("nuc_model", "cell_model"):
        if path := getattr(args, flag):
            save(as_given(read_state(path, f"--{flag}"), args.half), folder / f"{flag}.pth")
            flags.append((f"--{flag}", f"BUNDLE / 'finder' / '{flag}.pth'"))
    paths = args.weights.split(",") if args.weights else []
    for number, path in enumerate(paths, start=1):
        settings = slim(existing(path, "--weights"), folder / f"{number}.pth", args.half)
        taught.add(settings.get("competition", args.competition))
    if paths:
        files = [f"{number}.pth" for number in range(1, len(paths) + 1)]
        flags.append(("--weights", f"','.join(str(BUNDLE / 'finder' / name) for name in {files})"))
    return flags, taught


def slim(source: Path, target: Path, half: bool) -> dict:
    """Copy a checkpoint of train.py without all that prediction does not need, this machine's paths among it; its
    settings.
    """
    content = read(source, "checkpoint")
    given = content["settings"]
    kept = {"arch", "split_name"}  # which may have slashes without being paths
    settings = {name: value for name, value in given.items() if name in kept or "/" not in str(value)}
    classes = given.get("classes") or ""
    if "," in classes or competitions.is_file(classes):
        settings["classes"] = ",".join(competitions.parse_classes(classes))
    save({"model": as_given(content["model"], half), "settings": settings, "epoch": content["epoch"]}, target)
    return settings


def as_given(weights: dict[str, torch.Tensor], half: bool) -> dict[str, torch.Tensor]:
    """Weights as they are, or with `half` all but vectors (norms, biases: they are small) in float16, if they fit.

    Networks have float32 whatever is loaded into them.
    """
    return {name: shortened(value) if half and value.ndim > 1 else value for name, value in weights.items()}


def shortened(value: torch.Tensor) -> torch.Tensor:
    """Fractions as float16, unless one of them is too large for it."""
    short = value.half() if value.is_floating_point() else value
    return short if torch.isfinite(short).all() else value


def infer_flags(
    args: argparse.Namespace, more: Sequence[str], competition: Competition, weights: Sequence[tuple[str, str]]
) -> list[str]:
    """infer.py's flags as lines of Python source, checked; exit code 2 with its own words when it does not know one."""
    sample = competition.SAMPLE[0]
    sample = sample if sample.endswith(".csv") else args.test_dir  # of pannuke, which is its images' folder
    flags = [
        ("--competition", repr(args.competition)),
        ("--ensemble", f"BUNDLE / 'ensemble' / {Path(args.ensemble).name!r}"),
        ("--metadata", f"DATA / {sample!r}"),
        ("--root_dir", f"DATA / {args.test_dir!r}"),
        ("--base_dir", "BUNDLE / 'results'"),
        ("--work_dir", "SCRATCH"),
        ("--out_path", "submission"),
        ("--time_limit", repr(args.time_limit)),
        *weights,
    ]
    if args.classes:
        flags.append(("--classes", "BUNDLE / 'classes.txt'"))
    parse_duration(args.time_limit)
    for word in more:
        if word.partition("=")[0] in dict(flags):
            raise UserError(f"{word} is not for you to give: the bundle says where its notebook finds and writes that")
    here = [(f"--{name}", getattr(args, name)) for name in HERE if getattr(args, name)]
    words = [word for flag in [*flags, *here] for word in flag]
    check_finding(infer.get_args_parser().parse_args([*words, *more]), competition)
    return [f"{flag!r}, {value}," for flag, value in flags] + [f"*{list(more)},"]


def check_finding(args: argparse.Namespace, competition: Competition) -> None:
    """UserError for what infer.py would refuse in the notebook: its rules, views and seeds, and the finder, made here
    on the CPU with its weights.
    """
    check_flags(args, competition)
    if args.truth or args.finder == "truth":
        raise UserError("--finder truth: test images have no labelled cells; choose another finder")
    make_finder(argparse.Namespace(**{**vars(args), "gpu_id": "cpu"}))


def add_wheels(args: argparse.Namespace, folder: Path, before: Path | None) -> None:
    """The wheels of the list, and the list itself for pip."""
    pins = read_pins(args.wheel_list)
    ready = before / "wheels" if before else None
    ready = existing(args.wheels, "--wheels") if args.wheels else ready
    gather(pins, parse_target(args.python, args.platform), ready, folder, download=not args.wheels)
    (folder / "wheels.txt").write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a file into a folder that may not be there yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def write_json(content: dict, path: Path) -> None:
    """Write JSON as a person would like to read it."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def manifest(folder: Path, args: argparse.Namespace) -> dict:
    """What is in a bundle: each file with its bytes and SHA-256."""
    files = {name: {"bytes": path.stat().st_size, "sha256": digest(path)} for name, path in files_in(folder).items()}
    total = sum(own["bytes"] for own in files.values())
    return {
        "format": FORMAT, "competition": args.competition, "ensemble": Path(args.ensemble).name, "half": args.half,
        "bytes": total, "files": files,
    }  # fmt: skip


def files_in(folder: Path) -> dict[str, Path]:
    """The files of a bundle but its manifest, by their names in it."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(MANIFEST, None)
    return files


def problems(folder: Path) -> list[str]:
    """A sentence for each file of a bundle that is not as the manifest says."""
    listed, there = read_manifest(folder), files_in(folder)
    wrong = [f"{name} is missing" for name in listed if name not in there]
    wrong += [f"{name} is extra, the manifest does not know it" for name in there if name not in listed]
    for name in listed.keys() & there.keys():
        own, size = listed[name], there[name].stat().st_size
        if size != own["bytes"]:
            wrong.append(f"{name} has changed, it has {size} bytes and not {own['bytes']}")
        elif digest(there[name]) != own["sha256"]:
            wrong.append(f"{name} has changed, its SHA-256 is another one")
    return sorted(wrong)


def read_manifest(folder: Path) -> dict[str, dict]:
    """The files that a bundle must have: name -> bytes and sha256."""
    path = existing(folder / MANIFEST, "the manifest")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        return {name: {"bytes": own["bytes"], "sha256": own["sha256"]} for name, own in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the manifest of a bundle: {error}") from error


def report(out: Path, newer: bool) -> None:
    """Say what the bundle weighs and what to do with it. newer: it took the place of an older one."""
    files = read_manifest(out)
    parts = {part: [own["bytes"] for name, own in files.items() if name.startswith(f"{part}/")] for part in PARTS}
    text = ", ".join(f"{part} {sum(own) / 1e6:.1f} MB in {len(own)} files" for part, own in parts.items() if own)
    say(f"{out}: {sum(own['bytes'] for own in files.values()) / 1e6:.1f} MB; {text}")
    how = 'version -m "why"' if newer else "create"
    say(f"next: kaggle datasets {how} -p {out} --dir-mode zip; when kaggle datasets status says ready, kaggle kernels "
        f"push -p {out}")  # fmt: skip


if __name__ == "__main__":
    run(main)
