"""No code runs from data, ids never leave the output folder, and odd ids and paths come through the whole road."""

import ast
import struct
import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import convertpredictions
import download
import ensemble
import evaluate
import findduplicates
import makefolds
import segment
import submit
import test as predict
import train
import visualize
from cells import rle
from cells.store import Store
from cells.table import write_table
from common.errors import UserError
from common.files import safe_name
from competitions import cytologia, hpa
from synthesis import hpa as made_up

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = ["../x", "/tmp/x", "a/b", "a\\b", "..", ".", ".hidden", "a\0b", "a\nb", "a\x7fb", ""]
ODD = [
    "=1+1", "+2", "-3", "@x", "a,b", 'q"q"', "it's", "ä ü", "日本", "🧫 a", "NA", "007", "1e5", "True", "a+b", "%s{0}",
    "[a]*",
]  # fmt: skip
IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "tarfile"}
CALLS = {"eval", "exec", "compile", "__import__", "input"}
METHODS = {
    "system", "popen", "execv", "execvp", "spawnl", "extract", "extractall", "unpack_archive", "read_pickle",
    "to_pickle", "getoutput", "getstatusoutput",
}  # fmt: skip
SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
DOOR = "common/foreign.py"  # the one that may know pickles, to refuse what is in them


def dangers(source: str, name: str) -> list[str]:
    """What in a source text could run code from data, or unpack an archive to where its names say."""
    found = []
    for node in ast.walk(ast.parse(source)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, (ast.Import, ast.ImportFrom)) and name != DOOR:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{where} imports {module}" for module in modules if module.split(".")[0] in IMPORTS]
        if not isinstance(node, ast.Call):
            continue
        words = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        text = ast.unparse(node.func)
        if text in CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
            found.append(f"{where} calls {text}")
        if words.get("shell"):
            found.append(f"{where} calls a shell")
        if text in SAFE and words.get(SAFE[text][0]) is not SAFE[text][1]:
            found.append(f"{where} calls {text} without {SAFE[text][0]}={SAFE[text][1]}")
    return found


def test_no_code_runs_from_data() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    files = files or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    sources = {name: (ROOT / name).read_text(encoding="utf-8") for name in files if not name.startswith("tests/")}
    assert len(sources) > 100
    assert not [danger for name, source in sources.items() for danger in dangers(source, name)]


@pytest.mark.parametrize("line", [
    "eval(x)", "exec(x)", "import pickle", "from joblib import load", "os.system(x)", "subprocess.run(x, shell=True)",
    "torch.load(x)", "torch.load(x, weights_only=False)", "np.load(x)", "np.load(x, allow_pickle=True)",
    "archive.extractall(x)", "shutil.unpack_archive(x)", "pd.read_pickle(x)",
])  # fmt: skip
def test_dangers_are_seen(line: str) -> None:
    assert len(dangers(line, "x.py")) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(UserError, match="ID .* cannot be a file name"):
        safe_name(name, "ID")


@pytest.mark.parametrize("name", ODD)
def test_names_that_are(name: str) -> None:
    assert safe_name(name, "ID") == name


def images(folder: Path, names: list[str], suffix: str = "") -> None:
    """Colour images of two round cells each."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        image = np.full((64, 64, 3), 230, np.uint8)
        cv2.circle(image, (20, 20 + number % 5), 9, (160, 60, 90), -1)
        cv2.circle(image, (46, 40), 8, (60, 60, 200), -1)
        (folder / f"{name}{suffix}").write_bytes(cv2.imencode(".png", image)[1].tobytes())


def tables(names: list[str]) -> dict[str, pd.DataFrame]:
    """What names the images in each competition: two cells each."""
    twice = [name for name in names for _ in range(2)]
    box = np.tile([[11, 11, 30, 34], [38, 32, 55, 49]], (len(names), 1))
    mask = np.zeros((64, 64), bool)
    mask[11:30, 11:30] = True
    runs = [rle.encode(mask), rle.encode(mask[::-1, ::-1])] * len(names)
    corners = dict(zip(("x1", "y1", "x2", "y2"), box.T, strict=True))
    return {
        "hpa": pd.DataFrame({"ID": names, "Label": "0"}),
        "riva": pd.DataFrame({"image_filename": twice, "x": 20.0, "y": 30.0, "width": 20, "height": 20,
                              "class_name": "NILM", "class": 0}),
        "cytologia": pd.DataFrame({"NAME": twice, **corners, "class": "PNN"}),
        "neurons": pd.DataFrame({"id": twice, "annotation": runs, "width": 64, "height": 64, "cell_type": "cort"}),
        "pannuke": pd.DataFrame({"ID": names, "Label": "0"}),
    }  # fmt: skip


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def segment_flags(competition: str, table: Path, root: Path, work: Path) -> list[str]:
    flags = ["--competition", competition, "--metadata", str(table), "--root_dir", str(root)]
    for name in ("meta_dir", "crop_dir", "img_dir", "cache_dir"):
        flags += [f"--{name}", str(work / name)]
    flags += [] if competition == "hpa" else ["--finder", "truth", "--dataset", "train"]
    return [*flags, "--img_size", "32", "--workers", "0"]


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", ".x", "a\nb", "a\0b"])
@pytest.mark.parametrize("competition", ["hpa", "riva", "cytologia", "neurons", "pannuke"])
def test_hostile_ids_stay_inside(tmp_path: Path, competition: str, name: str) -> None:
    """segment.py, findduplicates.py and visualize.py make file names from ids."""
    data, work = tmp_path / "a" / "b" / "data", tmp_path / "a" / "b" / "work"
    images(data, ["fine.png"])
    write_table(tables([name])[competition], data / "train.csv")
    before = everything(tmp_path)
    with pytest.raises(UserError):
        segment.main(segment_flags(competition, data / "train.csv", data, work))
    flags = ["--competition", competition, "--metadata", str(data / "train.csv"), "--root_dir", str(data)]
    with pytest.raises(UserError):
        findduplicates.main([*flags, "--out", str(work / "duplicates.csv"), "--workers", "0"])
    with pytest.raises(UserError):
        visualize.main(["overlays", *flags, "--truth", str(data / "train.csv"), "--out_path", str(work)])
    assert {path for path in everything(tmp_path) - before if path.is_file()} <= {work / "duplicates_hashes.csv"}


@pytest.mark.parametrize("address", ["https://h/../..", "https://h/a/..", "https://h/%2e%2e/x y", "https://h/.a/b"])
def test_addresses_that_are_no_names(tmp_path: Path, address: str) -> None:
    row = {"Image": [address], "Label": "Nucleoplasm", "Cellline": "U", "in_trainset": "False", "Label_idx": "0"}
    write_table(pd.DataFrame(row), tmp_path / "atlas.csv")
    with pytest.raises(UserError, match="row 2: Image .* is not an address like"):
        download.main([
            "--metadata", str(tmp_path / "atlas.csv"), "--root_dir", str(tmp_path / "x"), "--out",
            str(tmp_path / "y.csv"),
        ])  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.csv"]


@pytest.mark.parametrize("competition", ["riva", "cytologia", "neurons"])
def test_odd_ids_and_paths_come_through(tmp_path: Path, competition: str) -> None:
    suffix = ".png" if competition != "neurons" else ""
    names = [f"{name}{suffix}" for name in ODD]
    data = tmp_path / "Bilder für 日本 🧫" / "da ta"
    images(data, names, "" if suffix else ".png")
    write_table(tables(names)[competition], data / "train.csv")
    work = data.parent / "out put"
    assert not segment.main(segment_flags(competition, data / "train.csv", data, work))
    cells = work / "meta_dir" / "train_cell.csv"
    found = pd.read_csv(cells, dtype=str, keep_default_na=False)
    assert found["ImageID"].drop_duplicates().tolist() == names
    assert (found["Image"] == found["ImageID"] + "+" + found["CellID"]).all()
    assert Store(work / "crop_dir" / "train").images() == sorted(names)
    flags = ["--competition", competition, "--metadata", str(data / "train.csv")]
    makefolds.main([*flags, "--cell_metadata", str(cells), "--folds_dir", str(work), "--split_name", "ä 2"])
    folds = pd.read_csv(work / "ä 2" / "images.csv", dtype=str, keep_default_na=False)
    assert folds["ID"].tolist() == names
    if competition != "cytologia":  # whose submissions say how many cells are wanted
        submit.main([*flags, "--cell_meta_csv_path", str(cells), "--out_path", str(work / "sub mission.csv")])
        written = pd.read_csv(work / "sub mission.csv", dtype=str, keep_default_na=False)
        column = "id" if competition == "neurons" else "image_filename"
        assert written[column].drop_duplicates().tolist() == names
    visualize.main([
        "overlays", *flags, "--root_dir", str(data), "--cell_meta_csv_path", str(cells), "--size", "64", "--limit",
        "99", "--out_path", str(work / "pics"),
    ])  # fmt: skip
    assert {path.name for path in (work / "pics").iterdir()} == {f"overlay_{name}.png" for name in names}


@pytest.mark.slow
def test_odd_ids_come_through_the_whole_road(tmp_path: Path) -> None:
    """HPA from images to a score: names as spreadsheets would run or change them, in folders of other letters."""
    data, work = tmp_path / "données 日本" / "da ta", tmp_path / "out 🧫 put"
    request = made_up.Request(1, 128, 128, (2, 3), made_up.BALANCE)
    made_up.write_image(tmp_path / "made", request, "train", 0)
    (data / "train").mkdir(parents=True)
    for name in ODD:
        for path in (tmp_path / "made" / "train").glob("*.png"):
            channel = path.stem.rpartition("_")[2]
            (data / "train" / f"{name}_{channel}.png").write_bytes(path.read_bytes())
    write_table(pd.DataFrame({"ID": ODD, "Label": ["0", "16"] * 8 + ["5"]}), data / "train.csv")
    sample = {"ID": ODD, "ImageWidth": 128, "ImageHeight": 128, "PredictionString": "0 1 eNoLCAgAAJAAPQ=="}
    write_table(pd.DataFrame(sample), data / "sample.csv")
    for table, dataset in (("train", "train"), ("sample", "test")):
        flags = segment_flags("hpa", data / f"{table}.csv", data / "train", work)
        assert not segment.main([*flags, "--dataset", dataset, "--edge_rule", "none"])
    folds = ["--folds_dir", str(work / "folds"), "--split_name", "two 2"]
    makefolds.main(["--metadata", str(data / "train.csv"), *folds])
    train.main([
        "--out_dir", "Zellen ä", "--result_dir", str(work), "--cell", "cell", "--img_path", str(work / "crop_dir"),
        *folds, "--arch", "test_resnet", "--img_size", "32", "--crop_size", "32", "--epochs", "1", "--batch_size", "8",
        "--loss", "BCE", "--scheduler", "AdamShortRun", "--lr", "0.001", "--gpu_id", "cpu",
    ])  # fmt: skip
    predict.main([
        "--base_dir", str(work), "--out_dir", "Zellen ä", "--predict_epoch", "1", "--img_dir", str(work / "crop_dir"),
        "--dataset", "test", "--gpu_id", "cpu",
    ])  # fmt: skip
    cells = work / "meta_dir" / "sample_cell.csv"
    convertpredictions.main([
        "--model", "Zellen ä", "--epoch", "1", "--cellorimage", "cell", "--predictions_path", str(work / "submissions"),
        "--seeds", "0", "--meta_csv_path", str(data / "sample.csv"), "--cell_meta_csv_path", str(cells),
        "--out_path", str(work / "tables"),
    ])  # fmt: skip
    weights = {name: [1.0] for name in hpa.CLASSES}
    config = pd.DataFrame({"Predictions": ["probabilities_Zellen ä_1.csv"], "Type": "cell", **weights})
    write_table(config, work / "ö.csv")
    ensemble.main([
        str(work / "ö.csv"), "--submission", "1", "--meta_csv", str(data / "sample.csv"), "--cell_meta_csv_path",
        str(cells), "--out_path", str(work / "tables"),
    ])  # fmt: skip
    submission = work / "tables" / "submission_ö.csv"
    written = pd.read_csv(submission, dtype=str, keep_default_na=False)
    assert written["ID"].tolist() == ODD
    truth = pd.read_csv(cells, dtype=str, keep_default_na=False).assign(Label="0")
    write_table(truth, work / "truth.csv")
    flags = ["--submission", str(submission), "--truth", str(work / "truth.csv")]
    evaluate.main([*flags, "--out_path", str(work / "score")])
    assert (work / "score" / "score_submission_ö.csv").exists()


def test_a_cytologia_submission_keeps_odd_ids(tmp_path: Path) -> None:
    sample = pd.DataFrame({"trustii_id": [f"={number}" for number in range(len(ODD))], "NAME": ODD})
    write_table(sample, tmp_path / "test.csv")
    cells = pd.DataFrame(columns=["ImageID", "CellID", "x1", "y1", "x2", "y2", "score", "ImageWidth", "ImageHeight"])
    images = cytologia.read_metadata(tmp_path / "test.csv")
    cytologia.write_submission(tmp_path / "out.csv", images, cells, np.zeros((0, 23)))
    written = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert written[["trustii_id", "NAME"]].equals(sample)


def test_a_shard_that_unpacks_to_too_much(tmp_path: Path) -> None:
    """A member of a kilobyte whose directory entry says that it is two gigabytes."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as shard:
        shard.writestr("1.png", bytes(1 << 20))
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(struct.pack("<L", 1 << 20), struct.pack("<L", (1 << 31) - 1)))
    with pytest.raises(UserError, match=r"x\.zip is damaged .1\.png unpacks to 2147483647 bytes"):
        Store(tmp_path).read("x", 1)
