"""The Kaggle bundle: what is in it, that it verifies itself, and its notebook run offline in a fresh environment."""

import ast
import json
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from offline_machine import Cut, find_cut, fresh_environment, run_offline
from small_data import make_small_data, predict_flags, train_flags

import synthesize
import test as predict
import train
from cells.table import write_table
from common.errors import UserError
from common.files import digest
from competitions import COMPETITIONS, hpa, neurons, pannuke
from models import build_detector
from tasks.detect import detector_options

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "kaggle"))  # no package: its scripts import each other as files of their folder

import bundle  # noqa: E402
import wheel_files  # noqa: E402
from code_files import needed_modules  # noqa: E402
from kernel_files import check_slug  # noqa: E402

LACKING = ("lightning-fabric", "lightning-utilities")  # of the fresh environment: they must come from the bundle
SLUG, DATASET = "hpa-single-cell-image-classification", "podium-two-models"
INFER = ["--views", "default,flipud", "--img_size", "48", "--workers", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with RESULTS of a small cell and a small image model, the ensemble CSV that names them, and wheels."""
    folder = make_small_data(tmp_path_factory.mktemp("trained"))
    flags = ["--out_dir", "Cell", "--epochs", "1"]
    assert not train.main(train_flags(folder, *flags))
    image = ["--out_dir", "Image", "--epochs", "1", "--cell", "image", "--img_path", str(folder / "images")]
    assert not train.main(train_flags(folder, *image))
    rows = [("probabilities_Cell_1.csv", "cell"), ("probabilities_Image_best.csv", "image")]
    table = pd.DataFrame(rows, columns=["Predictions", "Type"]).assign(**dict.fromkeys(hpa.CLASSES, 1.0))
    write_table(table, folder / "two_models.csv")
    pins = [repack(name, folder / "wheels") for name in LACKING]
    (folder / "wheels.txt").write_text("# what is lacking\n" + "\n".join(pins) + "   # a comment\n")
    return folder


def repack(name: str, folder: Path) -> str:
    """Make the wheel of an installed package again; its pin."""
    package = metadata.distribution(name)
    tag = re.search(r"^Tag: (\S+)", package.read_text("WHEEL"), re.M)[1]
    folder.mkdir(exist_ok=True)
    own = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    files = [file for file in package.files if file.suffix != ".pyc" and ".." not in file.parts]
    files = [file for file in files if not (".dist-info" in file.parts[0] and file.name in own)]
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{package.version}-{tag}.whl", "w") as wheel:
        for file in files:
            wheel.write(file.locate(), str(file))
        record = f"{package._path.name}/RECORD"
        wheel.writestr(record, "".join(f"{file},,\n" for file in [*files, record]))
    return f"{name}=={package.version}"


def flags(trained: Path, out: Path, *more: str) -> list[str]:
    """bundle.py's flags for the two small models."""
    return [
        "--ensemble", str(trained / "two_models.csv"), "--base_dir", str(trained / "results"), "--out", str(out),
        "--username", "somebody", "--competition_slug", SLUG, "--wheel_list", str(trained / "wheels.txt"),
        "--wheels", str(trained / "wheels"), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory) -> Path:
    """A bundle; tests leave it as it is."""
    out = tmp_path_factory.mktemp("made") / "bundle"
    assert not bundle.main(flags(trained, out, "--half", "1", *INFER))
    return out


@pytest.fixture
def own(made, tmp_path) -> Path:
    """A copy of the bundle."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def tree(folder: Path) -> dict[str, str]:
    """All files and folders below a folder, with the digests of the files."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): digest(path) if path.is_file() else "folder" for path in paths}


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def code_of(notebook: Path) -> str:
    """The code cells of a notebook, one after another."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_what_is_in_it_and_nothing_else(made, trained):
    own = names(made)
    code = {name for name in own if name.startswith("code/")}
    assert {"code/infer.py", "code/segment.py", "code/competitions/hpa.py", "code/models/bag.py"} <= code
    assert not {"code/train.py", "code/competitions/riva.py", "code/evaluate.py/"} & code
    assert not any(name.startswith(("code/tests", "code/synthesis", "code/kaggle", "code/pictures")) for name in code)
    assert own - code - {f"wheels/{path.name}" for path in (trained / "wheels").iterdir()} == {
        "manifest.json", "dataset-metadata.json", "kernel-metadata.json", "podium.ipynb", "wheels/wheels.txt",
        "ensemble/two_models.csv", "results/models/Cell/fold0/001.pth", "results/models/Image/fold0/best.pth",
    }  # fmt: skip
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not tracked or {name.removeprefix("code/") for name in code} <= set(tracked)
    assert str(trained) not in code_of(made / "podium.ipynb")


def test_the_manifest_says_sizes_and_digests(made):
    content = json.loads((made / "manifest.json").read_text())
    assert set(content["files"]) == names(made) - {"manifest.json"}
    assert content["bytes"] == sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) - (
        made / "manifest.json"
    ).stat().st_size
    for name, own in content["files"].items():
        assert own == {"bytes": (made / name).stat().st_size, "sha256": digest(made / name)}


def test_metadata_is_what_kaggles_client_wants(made):
    dataset = json.loads((made / "dataset-metadata.json").read_text())
    assert dataset["id"] == f"somebody/{DATASET}" and 6 <= len(dataset["title"]) <= 50
    assert 20 <= len(dataset["subtitle"]) <= 80 and len(dataset["licenses"]) == 1
    kernel = json.loads((made / "kernel-metadata.json").read_text())
    assert kernel["title"].replace(" ", "-") == kernel["id"].removeprefix("somebody/")
    assert (kernel["enable_internet"], kernel["enable_gpu"], kernel["is_private"]) == (False, True, True)
    assert (kernel["language"], kernel["kernel_type"]) == ("python", "notebook")
    assert (made / kernel["code_file"]).is_file()
    assert kernel["dataset_sources"] == [dataset["id"]] and kernel["competition_sources"] == [SLUG]


def test_the_notebook_is_valid_and_says_the_command(made):
    notebook = json.loads((made / "podium.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5) and set(notebook["metadata"])
    for cell in notebook["cells"]:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | code
        assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", cell["id"])
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = code_of(made / "podium.ipynb")
    ast.parse(code)
    assert "'--time_limit', '8h30m'" in code and f"*{INFER}" in code


def test_checkpoints_hold_weights_and_settings_and_predict_the_same(made, trained, tmp_path):
    path = made / "results" / "models" / "Cell" / "fold0" / "001.pth"
    content = torch.load(path, weights_only=True)
    before = torch.load(trained / "results" / "models" / "Cell" / "fold0" / "001.pth", weights_only=True)
    assert set(content) == {"model", "settings", "epoch"} and str(trained) not in str(content["settings"])
    kinds = {value.dtype for value in content["model"].values() if value.ndim > 1}
    assert kinds == {torch.float16}
    for name, value in content["model"].items():
        assert torch.allclose(value.float(), before["model"][name].float(), rtol=1e-3, atol=1e-6)
    probs = []
    for source in (path, trained / "results" / "models" / "Cell" / "fold0" / "001.pth"):
        more = ["--base_dir", str(tmp_path / str(len(probs))), "--network_path", str(source)]
        assert not predict.main(predict_flags(trained, *more))
        (raw,) = (tmp_path / str(len(probs))).rglob("prob_test.npz")
        probs.append(np.load(raw)["probs"])
    assert 0 < np.abs(probs[0] - probs[1]).max() < 0.01


def test_a_split_in_a_folder_of_its_own(trained, tmp_path):
    source = trained / "results" / "models" / "Cell" / "fold0" / "001.pth"
    content = torch.load(source, weights_only=True)
    content["settings"]["split_name"] = "cv/random_folds4"
    torch.save(content, tmp_path / "own.pth")
    bundle.slim(tmp_path / "own.pth", tmp_path / "slim.pth", half=True)
    assert torch.load(tmp_path / "slim.pth", weights_only=True)["settings"]["split_name"] == "cv/random_folds4"


def test_full_precision_and_numbers_too_large_for_half():
    ones = torch.ones(2, 2)
    weights = {"norm": torch.ones(3), "kernel": ones, "large": 1e5 * ones, "none": ones[:0], "count": ones.int()}
    full, half = (list(bundle.as_given(weights, half).values()) for half in (False, True))
    assert all(torch.equal(own, value) for own, value in zip(full, weights.values(), strict=True))
    assert [own.dtype for own in half] == [torch.float32, torch.float16, torch.float32, torch.float16, torch.int32]


def test_check_names_what_is_wrong(own, capsys):
    assert bundle.main(["--check", str(own)]) is None
    (own / "code" / "infer.py").unlink()
    (own / "notes.txt").write_text("mine")
    weights = own / "results" / "models" / "Cell" / "fold0" / "001.pth"
    weights.write_bytes(weights.read_bytes()[:-1])
    table = own / "ensemble" / "two_models.csv"
    table.write_text(table.read_text().replace("cell", "bags"))
    capsys.readouterr()
    assert bundle.main(["--check", str(own)]) == 2
    lines = [line.partition("error: ")[2] for line in capsys.readouterr().err.splitlines()]
    size = weights.stat().st_size
    assert lines == [
        "code/infer.py is missing",
        "ensemble/two_models.csv has changed, its SHA-256 is another one",
        "notes.txt is extra, the manifest does not know it",
        f"results/models/Cell/fold0/001.pth has changed, it has {size} bytes and not {size + 1}",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"format": "podium bundle 9", "files": {}}', '{"format": "podium bundle 1", "files": {"a": 1}}'],
)
def test_check_of_something_else(own, text):
    (own / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="not the manifest of a bundle"):
        bundle.main(["--check", str(own)])


def test_check_of_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(UserError, match="manifest does not exist"):
        bundle.main(["--check", str(tmp_path)])


def test_again_gives_the_same_bytes_and_takes_the_wheels_that_are_there(own, trained, monkeypatch):
    monkeypatch.setattr(wheel_files, "pip", lambda *words: pytest.fail("the index was asked"))
    again = flags(trained, own, "--half", "1", *INFER)
    at = again.index("--wheels")
    before = (own / "manifest.json").read_bytes()
    assert not bundle.main(again[:at] + again[at + 2 :])
    assert (own / "manifest.json").read_bytes() == before and not bundle.problems(own)
    assert [path.name for path in own.parent.iterdir()] == ["bundle"]
    assert not bundle.main([*again, "--half", "0"])
    assert (own / "manifest.json").read_bytes() != before and not bundle.problems(own)


def test_an_older_bundle_survives_what_goes_wrong(own, trained, monkeypatch):
    """A bundle that cannot be built, a kill between the two renames, a folder that cannot be renamed."""
    before, building = tree(own), own.parent / ".bundle.building"
    with pytest.raises(UserError, match="has no wheel of"):
        bundle.main(flags(trained, own, "--wheels", str(trained / "crops")))
    assert tree(own) == before and not building.exists()
    building.mkdir()
    own.rename(building / "before")
    with pytest.raises(UserError, match="has no wheel of"):
        bundle.main(flags(trained, own, "--wheels", str(trained / "crops")))
    assert tree(own) == before and not building.exists()
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: fails() if path.parent == building else rename(path, to))
    with pytest.raises(OSError, match="no luck"):
        bundle.main(flags(trained, own))
    assert tree(building / "before") == before  # nothing can be renamed, but it is there


def fails() -> None:
    raise OSError("no luck")


@pytest.mark.parametrize(("file", "message"), [("a.txt", "is no bundle"), ("bundle/notes.txt", "notes.txt is extra")])
def test_what_others_put_there_stays(own, trained, file, message):
    (own.parent / file).write_text("mine")
    out = own if "bundle" in file else own.parent
    before = names(out)
    with pytest.raises(UserError, match=message):
        bundle.main(flags(trained, out))
    assert names(out) == before


def rows(trained: Path, folder: Path, name: str) -> list[str]:
    """--ensemble of a CSV whose second row names another table."""
    table = pd.read_csv(trained / "two_models.csv")
    table.loc[1, "Predictions"] = name
    write_table(table, folder / "other.csv")
    return ["--ensemble", str(folder / "other.csv")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("probabilities_Image_7.csv", "other.csv row 3, .*: probabilities_Image_7.csv needs .*Image/fold0/007.pth,"),
        ("probabilities_Absent_best.csv", "other.csv row 3, .*: probabilities_Absent_best.csv needs .*is no fold"),
        ("image.csv", "image.csv must be called probabilities_<model>_<epoch>.csv"),
    ],
)
def test_a_checkpoint_that_is_missing(trained, tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        bundle.main(flags(trained, tmp_path / "out", *rows(trained, tmp_path, table)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--username", ""], "--username is needed"),
        (["--dataset_slug", "My data"], "--dataset_slug 'My data' must be 6 to 50 small letters"),
        (["--time_limit", "soon"], "--time_limit 'soon' must be a time"),
        (["--nuc_model", "absent.pth"], "--nuc_model does not exist: absent.pth"),
        (["--weights", "absent.pth"], "--weights does not exist: absent.pth"),
        (["--folds", "3"], "row 2, .*: probabilities_Cell_1.csv needs .*fold3/001.pth, which is missing"),
        (["--wheel_list", "absent.txt"], "--wheel_list does not exist: absent.txt"),
        (["--combine", "foo"], "--combine foo is not known"),
        (["--views", "sideways"], "--views sideways is not known"),
        (["--seeds", "x"], "--seeds x must be whole numbers"),
        (["--finder", "nope"], "--finder nope is not known"),
        (["--out_path", "/x"], "--out_path is not for you to give"),
        (["--work_dir=/x"], "--work_dir=/x is not for you to give"),
        (["--python", "3.11,three"], "--python 3.11,three: 'three' must be a version such as 3.11"),
        (["--out", "/"], "--out / must be a folder of its own"),
        (["--username", 'jo"e'], "--username 'jo\"e' must be letters, digits"),
        (["--competition_slug", "https://www.kaggle.com/c/x"], "--competition_slug 'https://.*' must be letters"),
        (["--finder", "hpacellseg"], "needs --nuc_model"),
        (["--finder", "network"], "--finder network needs --weights"),
        (["--label_scale", "0.5"], "--finder watershed does not use --label_scale"),
        (["--finder", "truth"], "--finder truth: test images have no labelled cells"),
        (["--truth", "train.csv"], "--finder truth: test images have no labelled cells"),
    ],
)
def test_bad_flags(trained, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        bundle.main(flags(trained, tmp_path / "out", *more))
    assert not list(tmp_path.iterdir())


def test_flags_that_infer_does_not_know(trained, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        bundle.main(flags(trained, tmp_path / "out", "--viewz", "all"))
    assert "--viewz" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_weights_of_the_segmentator(tmp_path):
    torch.save({"state_dict": {"module.a": torch.ones(2, 2)}, "optimizer": [1]}, tmp_path / "nuclei.pth")
    args = bundle.get_args_parser().parse_args(["--nuc_model", str(tmp_path / "nuclei.pth"), "--half", "1"])
    own, taught = bundle.copy_finder(args, tmp_path / "finder")
    assert own == [("--nuc_model", "BUNDLE / 'finder' / 'nuc_model.pth'")] and not taught
    weights = torch.load(tmp_path / "finder" / "nuc_model.pth", weights_only=True)
    assert list(weights) == ["a"] and weights["a"].dtype == torch.float16


def test_a_finder_of_another_competition_brings_its_module(trained, tmp_path):
    net = build_detector("yolox_nano", 1, 3, neurons.MEAN, neurons.STD, **detector_options("yolox_nano", 64, neurons))
    settings = {
        "arch": "yolox_nano", "num_classes": 1, "in_channels": 3, "img_size": 64, "competition": "neurons",
        "classes": "SH-SY5Y/a,cort,astro", "metadata": "data/train.csv",
    }  # fmt: skip
    torch.save({"model": net.state_dict(), "settings": settings, "epoch": 1}, tmp_path / "own.pth")
    more = ["--weights", f"{tmp_path / 'own.pth'},{tmp_path / 'own.pth'}", "--half", "1", "--no_wheels"]
    assert not bundle.main(flags(trained, tmp_path / "out", *more))
    own = names(tmp_path / "out")
    assert {name for name in own if name.startswith(("finder", "wheels"))} == {"finder/1.pth", "finder/2.pth"}
    assert "code/competitions/neurons.py" in own
    kept = torch.load(tmp_path / "out" / "finder" / "1.pth", weights_only=True)["settings"]
    assert kept == {name: value for name, value in settings.items() if name != "metadata"}
    code = code_of(tmp_path / "out" / "podium.ipynb")
    value = re.search(r"'--weights', (.*),\n", code)[1]
    assert eval(value, {"BUNDLE": Path("/b")}) == "/b/finder/1.pth,/b/finder/2.pth" and "pip" not in code  # noqa: S307
    with pytest.raises(UserError, match="--score_threshold 5.0 must be from 0 to 1"):
        bundle.main(flags(trained, tmp_path / "other", *more, "--score_threshold", "5"))


def test_classes_of_a_file_are_told_by_their_names(tmp_path):
    (tmp_path / "classes.txt").write_text("NILM\nASC-H/HSIL\n")
    content = {"model": {}, "settings": {"classes": str(tmp_path / "classes.txt")}, "epoch": 1}
    torch.save(content, tmp_path / "own.pth")
    assert bundle.slim(tmp_path / "own.pth", tmp_path / "slim.pth", half=False) == {"classes": "NILM,ASC-H/HSIL"}


def of_other_classes(trained: Path, folder: Path, classes: list[str]) -> list[str]:
    """--ensemble and --base_dir of the cell model, as if it knew these classes."""
    table = pd.read_csv(trained / "two_models.csv").iloc[:1, : 2 + len(classes)]
    table.columns = ["Predictions", "Type", *classes]
    write_table(table, folder / "own.csv")
    own = Path(shutil.copytree(trained / "results", folder / "results")) / "models" / "Cell" / "fold0" / "001.pth"
    content = torch.load(own, weights_only=True)
    content["settings"]["num_classes"] = len(classes)
    torch.save(content, own)
    return ["--ensemble", str(folder / "own.csv"), "--base_dir", str(folder / "results"), "--dataset_slug", "own-cells"]


def test_a_model_of_other_classes_is_refused(trained, tmp_path):
    of_other_classes(trained, tmp_path, list(hpa.CLASSES[:7]))
    own = ["--base_dir", str(tmp_path / "results")]
    with pytest.raises(UserError, match="001.pth knows 7 classes, hpa has 19"):
        bundle.main(flags(trained, tmp_path / "out", *own))
    torch.save({"model": {}, "settings": {}, "epoch": 1}, tmp_path / "results/models/Cell/fold0/001.pth")
    with pytest.raises(UserError, match="001.pth does not say its --arch; a checkpoint of train.py does"):
        bundle.main(flags(trained, tmp_path / "out", *own))


def test_own_classes(trained, tmp_path):
    more = [*of_other_classes(trained, tmp_path, ["red", "white"]), "--competition", "cytologia"]
    more += ["--classes", "red,white", "--finder", "otsu"]
    assert not bundle.main(flags(trained, tmp_path / "out", *more))
    assert (tmp_path / "out" / "classes.txt").read_text().split() == ["red", "white"]
    code = code_of(tmp_path / "out" / "podium.ipynb")
    assert "'--classes', BUNDLE / 'classes.txt'," in code and "'--metadata', DATA / 'test.csv'," in code
    assert "code/competitions/cytologia.py" in names(tmp_path / "out")


def test_images_in_a_folder_without_a_table(trained, tmp_path):
    more = [*of_other_classes(trained, tmp_path, list(pannuke.CLASSES)), "--competition", "pannuke", "--finder", "otsu"]
    assert not bundle.main(flags(trained, tmp_path / "out", *more))
    assert "'--metadata', DATA / 'test'," in code_of(tmp_path / "out" / "podium.ipynb")


def test_other_flags_beside_check(own, capsys):
    with pytest.raises(SystemExit, match="2"):
        bundle.main(["--check", str(own), "--nonsense", "5"])
    assert "unrecognized arguments: --nonsense 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "listed", "rerun", "good"),
    [(0, False, "", True), (1, True, "", True), (1, False, "", False), (-9, True, "", False), (2, False, "", False),
     (-9, False, "1", True)],
)  # fmt: skip
def test_a_failure_in_the_notebook_is_seen(made, tmp_path, code, listed, rerun, good):
    """Its last cell, after an infer.py that left a submission and ended so."""
    (tmp_path / "submission.csv").write_text("ID\n")
    if listed:
        (tmp_path / "submission_left_out.csv").write_text("Stage\n")
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads((made / "podium.ipynb").read_text())["cells"]}
    before = f"import os\nfrom pathlib import Path\nWORKING = Path({str(tmp_path)!r})\nended = {code}\n"
    before += "submission = WORKING / 'submission.csv'\n"
    environment = {"PATH": "/usr/bin:/bin"} | ({"KAGGLE_IS_COMPETITION_RERUN": rerun} if rerun else {})
    command = [sys.executable, "-c", before + cells["report"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == good and (good or f"infer.py ended with exit code {code}" in done.stderr)


@pytest.mark.parametrize("slug", ["short", "a" * 51, "two--hyphens", "-first", "Capital", "under_score", "no.dots"])
def test_slugs(slug):
    with pytest.raises(UserError, match="6 to 50 small letters"):
        check_slug(slug, "--kernel_slug")


TARGET = wheel_files.parse_target("3.11,3.12", "manylinux2014_x86_64")


class Index:
    """In place of pip: downloads what is `served`, builds what is `built`, as pip's words say."""

    def __init__(self, served: dict[str, list[str]], built: list[str] = ()):
        self.served, self.built, self.asked = served, built, []

    def __call__(self, verb: str, *words: str) -> str:
        self.asked.append((verb, words))
        flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
        files = self.built if verb == "wheel" else self.served.get(flags["python-version"], [])
        for file in files:
            Path(flags.get("dest") or flags["wheel-dir"], file).write_text(file)
        return "" if files else "No matching distribution found"


@pytest.mark.parametrize(
    ("served", "built", "got"),
    [
        ({"3.11": ["a_b-1.0-py3-none-any.whl"]}, [], ["a_b-1.0-py3-none-any.whl"]),
        ({"3.11": ["a_b-1.0-cp311-cp311-manylinux2014_x86_64.whl"],
          "3.12": ["a_b-1.0-cp312-cp312-manylinux2014_x86_64.whl"]}, [], None),
        ({"3.11": ["a_b-1.0-cp310-abi3-manylinux2014_x86_64.whl"]}, [], None),
        ({}, ["a_b-1.0-py2.py3-none-any.whl"], ["a_b-1.0-py2.py3-none-any.whl"]),
        ({"3.11": ["a_b-1.0.0-py3-none-manylinux2010_x86_64.whl"]}, [], None),
    ],
)  # fmt: skip
def test_wheels_for_other_pythons(tmp_path, monkeypatch, served, built, got):
    monkeypatch.setattr(wheel_files, "pip", Index(served, built))
    wheel_files.gather(["A.b==1.0"], TARGET, None, tmp_path / "wheels", download=True)
    expected = got or [file for files in served.values() for file in files]
    assert sorted(path.name for path in (tmp_path / "wheels").iterdir()) == expected


@pytest.mark.parametrize(
    ("served", "built"),
    [
        ({}, []),
        ({}, ["a_b-1.0-cp311-cp311-linux_x86_64.whl"]),  # built for this machine alone
        ({"3.11": ["a_b-1.0-cp311-cp311-manylinux2014_x86_64.whl"]}, []),  # none for 3.12
        ({"3.11": ["a_b-2.0-py3-none-any.whl"]}, []),
        ({"3.11": ["odd.whl"]}, []),
        ({"3.11": ["a_b-1.0-cp312-abi3-manylinux2014_x86_64.whl"]}, []),  # for 3.12 and later
        ({"3.11": ["a_b-1.0-py3-none-win_amd64.whl"]}, []),
        ({"3.11": ["a_b-1.0-py3-none-manylinux_2_28_x86_64.whl"]}, []),  # newer than the machine
        ({"3.11": ["a_b-1.0-cp311-cp311d-manylinux2014_x86_64.whl"]}, []),
    ],
)
def test_wheels_that_cannot_be_had(tmp_path, monkeypatch, served, built):
    monkeypatch.setattr(wheel_files, "pip", Index(served, built))
    with pytest.raises(UserError, match="a.b==1.0 cannot be had as a wheel for Python 3.1"):
        wheel_files.gather(["a.b==1.0"], TARGET, None, tmp_path / "wheels", download=True)


def test_wheels_of_a_folder(tmp_path):
    (tmp_path / "ready").mkdir()
    with pytest.raises(UserError, match="--wheels .*ready has no wheel of a==1 for Python 3.11"):
        wheel_files.gather(["a==1"], TARGET, tmp_path / "ready", tmp_path / "wheels", download=False)


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy==two", "numpy==2; extra", "-r other.txt"])
def test_lists_of_wheels_have_exact_versions(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"# first\n\na==1.0  # why\n{line}\n")
    with pytest.raises(UserError, match=r"list.txt line 4: '.*' is not name==version"):
        wheel_files.read_pins(tmp_path / "list.txt")


def test_a_list_of_wheels_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match="--wheel_list .*list.txt is not a text file"):
        wheel_files.read_pins(tmp_path / "list.txt")


def test_the_list_that_comes_along_leaves_the_images_own_packages_alone():
    pinned = {pin.partition("==")[0] for pin in wheel_files.read_pins(ROOT / "kaggle" / "wheels.txt")}
    assert "lightning-fabric" in pinned and not pinned & {"torch", "torchvision", "numpy", "pandas", "opencv-python"}


LOADED = """
import importlib, sys
import infer
import engine.road
for name in sys.argv[1:]:
    importlib.import_module(f"competitions.{name}")
print(*(module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)), sep="\\n")
"""


@pytest.mark.slow
def test_all_modules_that_python_loads_are_found():
    found = set(needed_modules(ROOT, ["infer.py", *(f"competitions/{name}.py" for name in COMPETITIONS)]))
    command = [sys.executable, "-c", LOADED, *COMPETITIONS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(line) for line in done.stdout.splitlines() if "site-packages" not in line]
    loaded = {file.relative_to(ROOT).as_posix() for file in files if ROOT in file.parents}
    assert "competitions/riva.py" in loaded and loaded <= found


def test_scripts_that_only_name_others(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "a.py").write_text("def f():\n    from pack import b, value\nimport os.path, numpy\n")
    (tmp_path / "pack" / "__init__.py").write_text("value = 1\n")
    (tmp_path / "pack" / "b.py").write_text("import a\n")
    (tmp_path / "pack" / "c.py").write_text("")
    assert needed_modules(tmp_path, ["a.py"]) == ["a.py", "pack/__init__.py", "pack/b.py"]


@pytest.mark.parametrize("how", ["namespace", "python"])
def test_the_cut_cuts(how, tmp_path):
    """A server of this test that is reached without the cut is not reached with it."""
    cut = find_cut(tmp_path)
    if how == "python":
        cut = Cut("python", read_only=False)
    elif cut.how != how:
        pytest.skip("no network namespaces here; the notebook's test cuts the other way")
    python = fresh_environment(tmp_path / "env", (), cut)
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"import socket; socket.create_connection({server.getsockname()}, 5)"
        assert not subprocess.run([sys.executable, "-c", script]).returncode
        done = run_offline(python, script, tmp_path, cut)
    assert done.returncode == 1 and "Network is unreachable" in done.stderr


@pytest.mark.slow
def test_the_notebook_runs_offline_in_a_fresh_environment(made, tmp_path, record_property):
    """The hidden test set has five images, the public one had two. Cells are run in order by a bare Python."""
    made_up = ["--competition", "hpa", "--train", "1", "--test", "5", "--size", "320x288", "--seed", "5"]
    data = tmp_path / "inputs" / "competitions" / SLUG
    synthesize.main([*made_up, "--cells", "3-5", "--jobs", "1", "--out_dir", str(data)])
    public = pd.read_csv(data / "sample_submission.csv").iloc[:2]
    assert set(pd.read_csv(data / "sample_submission.csv")["ID"]) > set(public["ID"])
    inputs, at = tmp_path / "inputs", tmp_path / "inputs" / "datasets" / "somebody" / DATASET
    shutil.copytree(made, at, ignore=shutil.ignore_patterns("*-metadata.json"))  # as Kaggle's client uploads it
    for path in [inputs, *inputs.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = tree(inputs)
    cut = find_cut(inputs)
    record_property("offline", f"network cut by {cut.how}, inputs mounted read-only: {cut.read_only}")
    print(f"network cut by {cut.how}, inputs mounted read-only: {cut.read_only}")
    python = fresh_environment(tmp_path / "env", tuple(name.replace("-", "_") for name in LACKING), cut)
    without = run_offline(python, "import torch, lightning_fabric", inputs, cut)
    assert "No module named 'lightning_fabric'" in without.stderr
    places = {"PODIUM_INPUT": inputs, "PODIUM_WORKING": tmp_path / "working", "PODIUM_SCRATCH": tmp_path / "scratch"}
    places["PODIUM_WORKING"].mkdir()
    done = run_offline(python, code_of(made / "podium.ipynb"), inputs, cut, **places)
    assert done.returncode == 0 and "exit code 0" in done.stdout, done.stdout + done.stderr
    assert tree(inputs) == before
    submission = pd.read_csv(tmp_path / "working" / "submission.csv")
    assert submission["ID"].tolist() == pd.read_csv(data / "sample_submission.csv")["ID"].tolist()
    cells = pd.read_csv(tmp_path / "scratch" / "meta" / "sample_submission_cell.csv")
    kept = cells[cells["keep"] == 1].groupby("ImageID").size()
    assert len(kept) == 5
    for image, text in zip(submission["ID"], submission["PredictionString"], strict=True):
        assert len(text.split()) == 3 * 19 * kept[image]
