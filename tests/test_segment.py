"""segment.py end to end: what it writes, what it skips, how it goes on after an interruption."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import segment
from cells import segmenting
from cells.borders import measure_borders
from cells.finders import FINDERS, Finder, Found
from cells.masks import decode_mask, encode_mask
from cells.store import Store, read_image_png
from cells.table import read_cells
from common.errors import UserError
from common.files import atomic, sole_writer
from common.workers import WorkerDied, run_each

ROOT = Path(__file__).resolve().parents[1]
CHANNELS = ("red", "green", "blue", "yellow")


def find_squares(image: np.ndarray, prediction) -> Found:
    """A stand-in for a finder: a cell is a connected bright part of red, its nucleus that of blue within."""
    bright = lambda plane: (plane > (100 if plane.dtype == np.uint8 else 100 * 257)).astype(np.uint8)  # noqa: E731
    labels = cv2.connectedComponents(bright(image[..., 0]))[1].astype(np.int32)
    return Found(labels, labels * bright(image[..., 2]))


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    """The stand-in finder as `squares`."""
    monkeypatch.setitem(FINDERS, "squares", lambda args: Finder(find_squares))


# Boxes of cells (y1, y2, x1, x2): two whole ones, one half cut, one of which a sliver is left.
CELLS = ((20, 60, 20, 60), (20, 60, 70, 110), (70, 110, 0, 25), (0, 6, 20, 60))


def draw(folder: Path, name: str, shape=(120, 160), scale=1, boxes=CELLS) -> None:
    image = np.random.default_rng(len(name)).integers(0, 50, (*shape, 4)).astype(np.uint8)
    for y1, y2, x1, x2 in boxes:
        image[y1:y2, x1:x2, 0] += 150
        image[y1 + (y2 - y1) // 4 * (y1 > 0) : y2 - 5, x1 + (x2 - x1) // 4 * (x1 > 0) : x2 - 5, 2] += 150
    folder.mkdir(parents=True, exist_ok=True)
    for channel, plane in zip(CHANNELS, np.moveaxis(image, 2, 0), strict=True):
        plane = plane if scale == 1 else plane.astype(np.uint16) * scale
        assert cv2.imwrite(str(folder / f"{name}_{channel}.png"), plane)


def write_train(folder: Path, names: list[str]) -> Path:
    (folder / "train.csv").write_text("ID,Label\n" + "".join(f"{name},0\n" for name in names))
    return folder / "train.csv"


@pytest.fixture
def data(tmp_path) -> Path:
    for name in ("b", "a", "c"):
        draw(tmp_path / "data" / "train", name)
    write_train(tmp_path / "data", ["b", "a", "c"])
    return tmp_path / "data"


def flags(data: Path, out: Path, *more: str, metadata="train.csv", root="train", finder="squares") -> list[str]:
    workers = [] if "--workers" in more else ["--workers", "0"]
    return [
        "--metadata", str(data / metadata), "--root_dir", str(data / root), "--meta_dir", str(out / "META"),
        "--crop_dir", str(out / "CROPS"), "--img_dir", str(out / "IMGS"), "--cache_dir", str(out / "CACHE"),
        "--img_size", "64", "--finder", finder, *workers, *more,
    ]  # fmt: skip


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def all_rows(out: Path, name="train_cell.csv") -> pd.DataFrame:
    return pd.read_csv(out / "META" / name)


def test_outputs(data, tmp_path):
    out = tmp_path / "out"
    assert segment.main(flags(data, out)) is None
    table = all_rows(out)
    assert table["ImageID"].drop_duplicates().tolist() == ["b", "a", "c"]  # in the metadata's order
    own = table[table["ImageID"] == "a"].reset_index(drop=True)
    labels = cv2.imread(str(out / "CACHE" / "train" / "a.cells.png"), cv2.IMREAD_UNCHANGED)
    nuclei = cv2.imread(str(out / "CACHE" / "train" / "a.nuclei.png"), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint16 and labels.shape == (120, 160)
    assert own["CellID"].tolist() == [1, 2, 3, 4]
    assert (own["ImageWidth"] == 160).all() and (own["ImageHeight"] == 120).all()
    for row in own.itertuples():
        mask = labels == row.CellID
        assert row.Image == f"a+{row.CellID}"
        assert row.PredictionString == encode_mask(mask)
        np.testing.assert_array_equal(decode_mask(row.PredictionString, 120, 160), mask)
        assert mask[row.y1 : row.y2, row.x1 : row.x2].sum() == mask.sum() == row.area
        assert mask[row.y1, row.x1 : row.x2].any() and mask[row.y1 : row.y2, row.x2 - 1].any()
    borders = measure_borders(labels.astype(int), nuclei.astype(int)).reset_index()
    pd.testing.assert_frame_equal(own[borders.columns], borders, check_dtype=False)
    assert read_image_png(out / "IMGS" / "train" / "a.png").shape == (64, 64, 4)


def test_dropped_cells_are_in_the_table_only(data, tmp_path):
    segment.main(flags(data, tmp_path / "out"))
    table = all_rows(tmp_path / "out")
    gone = table["keep"] == 0
    assert gone.sum() == 3 and (table.loc[gone, "y1"] == 0).all()  # the slivers
    read = read_cells(tmp_path / "out" / "META" / "train_cell.csv")
    store = Store(tmp_path / "out" / "CROPS" / "train")
    assert len(read) == 9
    for image, own in read.groupby("ImageID")["CellID"]:
        assert store.cells(image) == own.tolist()
    segment.main(flags(data, tmp_path / "out", "--edge_rule", "none"))
    assert all_rows(tmp_path / "out")["keep"].tolist() == [1] * 12
    assert len(store.cells("a")) == 4


def test_crops_are_the_cells(data, tmp_path):
    segment.main(flags(data, tmp_path / "out"))
    image = np.dstack([cv2.imread(str(data / "train" / f"a_{name}.png"), cv2.IMREAD_UNCHANGED) for name in CHANNELS])
    labels = cv2.imread(str(tmp_path / "out" / "CACHE" / "train" / "a.cells.png"), cv2.IMREAD_UNCHANGED)
    store = Store(tmp_path / "out" / "CROPS" / "train")
    whole = labels[40, 40]
    np.testing.assert_array_equal(store.read("a", whole), image[20:60, 20:60])
    cut = store.read("a", labels[90, 5])
    assert cut.shape == (40, 40, 4)
    np.testing.assert_array_equal(cut[:, 7:32], image[70:110, :25])
    assert not cut[:, :7].any() and not cut[:, 32:].any()


def test_sixteen_bit_copies_give_the_same_bytes(data, tmp_path):
    for name in ("b", "a", "c"):
        draw(data / "sixteen", name, scale=257)
    segment.main(flags(data, tmp_path / "eight"))
    segment.main(flags(data, tmp_path / "sixteen", root="sixteen"))
    eight, sixteen = files(tmp_path / "eight"), files(tmp_path / "sixteen")
    assert eight.keys() == sixteen.keys()
    same = [name for name in eight if not name.startswith("CACHE") or name.endswith(".png")]
    assert all(eight[name] == sixteen[name] for name in same)  # the rest holds times of the image files


def test_true_sixteen_bits_are_kept(data, tmp_path):
    draw(data / "deep", "a", scale=256)
    segment.main(flags(write_train(data / "deep", ["a"]).parent, tmp_path / "out", root="."))
    crop = Store(tmp_path / "out" / "CROPS" / "train").read("a", 2, raw=True)
    assert crop.dtype == np.uint16 and crop.max() > 40000


def test_test_set_and_its_sizes(data, tmp_path, capsys):
    head = "ID,ImageWidth,ImageHeight,PredictionString\n"
    (data / "sample_submission.csv").write_text(head + "a,160,120,0 1 x\nb,120,160,0 1 x\n")
    out = tmp_path / "out"
    assert segment.main(flags(data, out, metadata="sample_submission.csv")) == 1
    assert "skipped b: b is 160 x 120 pixels, the metadata says 120 x 160" in capsys.readouterr().err
    assert set(all_rows(out, "sample_submission_cell.csv")["ImageID"]) == {"a"}
    assert Store(out / "CROPS" / "test").images() == ["a"]


def test_image_without_cells(data, tmp_path):
    draw(data / "train", "a", boxes=())
    out = tmp_path / "out"
    assert segment.main(flags(data, out)) is None
    assert set(all_rows(out)["ImageID"]) == {"b", "c"}
    assert Store(out / "CROPS" / "train").cells("a") == []
    write_train(data, ["a"])
    assert segment.main(flags(data, out)) is None
    assert len(read_cells(out / "META" / "train_cell.csv")) == 0


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (65, 64)])
def test_any_size(data, tmp_path, shape):
    draw(data / "train", "a", shape=shape, boxes=())
    write_train(data, ["a"])
    assert segment.main(flags(data, tmp_path / "out")) is None
    assert read_image_png(tmp_path / "out" / "IMGS" / "train" / "a.png").shape == (64, 64, 4)


def test_the_same_command_again_does_nothing(data, tmp_path):
    out = tmp_path / "out"
    segment.main(flags(data, out))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.parent.name == "train"}
    before = files(out)
    assert segment.main(flags(data, out)) is None
    assert files(out) == before
    assert all(path.stat().st_mtime_ns == old for path, old in times.items() if path.name != ".lock")


def redone(data: Path, out: Path, *more: str) -> set[str]:
    """The images that the command works on."""
    marks = {path: path.stat().st_mtime_ns for path in (out / "CACHE" / "train").glob("*.csv")}
    assert segment.main(flags(data, out, *more)) is None
    return {path.stem for path, old in marks.items() if path.stat().st_mtime_ns != old}


def test_what_changed_is_done_again(data, tmp_path):
    out = tmp_path / "out"
    segment.main(flags(data, out))
    draw(data / "train", "c", boxes=CELLS[:1])
    assert redone(data, out) == {"c"}
    assert len(all_rows(out)) == 9
    (out / "CROPS" / "train" / "a.zip").unlink()
    assert redone(data, out) == {"a"}
    assert redone(data, out, "--img_size", "32") == {"a", "b", "c"}
    assert redone(data, out, "--img_size", "32", "--edge_rule", "nucleus") == {"a", "b", "c"}
    assert redone(data, out, "--img_size", "32", "--edge_rule", "nucleus") == set()
    assert redone(data, out, "--img_size", "32", "--edge_rule", "nucleus", "--overwrite") == {"a", "b", "c"}


def break_missing(folder: Path) -> str:
    (folder / "a_yellow.png").unlink()
    return "a_yellow.png is missing"


def break_bytes(folder: Path) -> str:
    path = folder / "a_green.png"
    path.write_bytes(path.read_bytes()[:500])
    return "a_green.png is not a readable image"


def break_empty(folder: Path) -> str:
    (folder / "a_red.png").write_bytes(b"")
    return "a_red.png is not a readable image"


def break_size(folder: Path) -> str:
    cv2.imwrite(str(folder / "a_blue.png"), np.zeros((120, 159), np.uint8))
    return "the blue channel's size (159, 120) differs from the red one's (160, 120)"


def break_depth(folder: Path) -> str:
    cv2.imwrite(str(folder / "a_blue.png"), np.zeros((120, 160), np.uint16))
    return "the blue channel's depth uint16 differs"


@pytest.mark.parametrize("damage", [break_missing, break_bytes, break_empty, break_size, break_depth])
def test_a_bad_image_is_skipped_and_named(data, tmp_path, capsys, damage):
    reason, out = damage(data / "train"), tmp_path / "out"
    assert segment.main(flags(data, out)) == 1
    error = capsys.readouterr().err
    assert "skipped a: " in error and reason in error and "1 of 3 images" in error
    assert all_rows(out)["ImageID"].drop_duplicates().tolist() == ["b", "c"]
    draw(data / "train", "a")
    assert redone(data, out) == set()  # b and c are not done again
    assert all_rows(out)["ImageID"].drop_duplicates().tolist() == ["b", "a", "c"]


def test_an_image_that_goes_bad_loses_its_old_rows(data, tmp_path):
    segment.main(flags(data, tmp_path / "out"))
    break_bytes(data / "train")
    assert segment.main(flags(data, tmp_path / "out")) == 1
    assert set(all_rows(tmp_path / "out")["ImageID"]) == {"b", "c"}
    stores = [path for path in (tmp_path / "out").rglob("a.*") if path.suffix in {".zip", ".png", ".csv"}]
    assert not stores  # nor crops for test.py to find


def test_an_error_within_a_finder_costs_one_image(data, tmp_path, monkeypatch, capsys):
    def fails(image, prediction):
        if image[0, 0, 0] == first:
            raise ZeroDivisionError("no nuclei")
        return find_squares(image, prediction)

    draw(data / "train", "other")
    write_train(data, ["a", "other"])
    first = cv2.imread(str(data / "train" / "other_red.png"), cv2.IMREAD_UNCHANGED)[0, 0]
    monkeypatch.setitem(FINDERS, "squares", lambda args: Finder(fails))
    assert segment.main(flags(data, tmp_path / "out")) == 1
    assert "skipped other: ZeroDivisionError: no nuclei" in capsys.readouterr().err
    assert set(all_rows(tmp_path / "out")["ImageID"]) == {"a"}


def test_a_full_disk_ends_the_run_and_loses_nothing(data, tmp_path, monkeypatch):
    out, real, written = tmp_path / "out", segmenting.write_image_png, []

    def full(path, image):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        real(path, image)

    monkeypatch.setattr(segmenting, "write_image_png", full)
    with pytest.raises(OSError, match="No space left"):
        segment.main(flags(data, out))
    assert not (out / "META").exists()
    assert [path.name for path in (out / "CACHE" / "train").glob("*.csv")] == ["b.csv"]
    monkeypatch.setattr(segmenting, "write_image_png", real)
    assert redone(data, out) == set()
    segment.main(flags(data, tmp_path / "fresh"))
    assert files(out) == files(tmp_path / "fresh")


class Killed(BaseException):
    """Stands for a signal at this very place."""


@pytest.mark.parametrize("step", ["write_shard", "write_image_png", "write_labels", "atomic"])
def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(data, tmp_path, monkeypatch, step):
    segment.main(flags(data, tmp_path / "whole"))
    out, real, calls = tmp_path / "out", getattr(segmenting, step), []

    def dies(*args):
        calls.append(args)
        if len(calls) == 3:
            raise Killed
        return real(*args)

    monkeypatch.setattr(segmenting, step, dies)
    with pytest.raises(Killed):
        for _, error in run_each(lambda: segment.main(flags(data, out)), [()], 0):
            raise error or Killed
    (out / "CROPS" / "train" / ".a.1.tmp.zip").write_bytes(b"left by kill -9")
    monkeypatch.setattr(segmenting, step, real)
    assert segment.main(flags(data, out)) is None
    assert files(out) == files(tmp_path / "whole")


def test_network_finders_predict_in_batches(data, tmp_path, monkeypatch):
    sizes = []

    def predict(images):
        sizes.append(len(images))
        return [image[..., 0].max() for image in images]

    def label(image, prediction):
        assert prediction == image[..., 0].max()
        return find_squares(image, prediction)

    monkeypatch.setitem(FINDERS, "predicting", lambda args: Finder(label, predict))
    monkeypatch.setattr(segment, "BATCH", 2)
    break_missing(data / "train")
    assert segment.main(flags(data, tmp_path / "out", finder="predicting")) == 1
    assert sizes == [1, 1]  # b of (b, a), then c
    assert set(all_rows(tmp_path / "out")["ImageID"]) == {"b", "c"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--finder", "stardist"], "--finder stardist is not known; choose from: watershed"),
        (["--finder", "watershed", "--nuc_model", "n.pth"], "does not use --nuc_model, it belongs to hpacellseg"),
        (["--finder", "watershed", "--cell_model", "c.pth"], "does not use --cell_model, it belongs to hpacellseg"),
        (["--competition", "mnist"], "--competition mnist is not known"),
        (["--root_dir", "nowhere"], "--root_dir does not exist: nowhere"),
        (["--metadata", "nowhere.csv"], "--metadata does not exist: nowhere.csv"),
        (["--img_size", "0"], "--img_size 0 must be at least 1"),
        (["--workers", "-1"], "--workers -1 must be 0 or more"),
        (["--dataset", "../x"], "--dataset '../x' cannot be a file name"),
    ],
)
def test_bad_flags(data, tmp_path, more, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        segment.main([*flags(data, tmp_path / "out"), *more])
    assert not (tmp_path / "out" / "META").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a table"),
        ("ID,Label\n", "has no images"),
        ("ID,Class\na,1\n", "train.csv's ID,Label or sample_submission.csv's"),
        ("ID,Label\n../../a,1\n", "cannot be a file name"),
        ("ID,Label\na,1\na,2\n", "more than once"),
        ("ID,Label\na,19\n", "class indices 0 to 18"),
    ],
)
def test_bad_metadata(data, tmp_path, text, message):
    (data / "train.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        segment.main(flags(data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_two_runs_at_once_are_refused(data, tmp_path):
    busy = pytest.raises(UserError, match="another process is writing")
    with sole_writer(tmp_path / "out" / "CROPS" / "train"), busy:
        segment.main(flags(data, tmp_path / "out"))


def test_folders_may_be_one(data, tmp_path):
    out = str(tmp_path / "out")
    more = ["--crop_dir", out, "--img_dir", out, "--cache_dir", out, "--meta_dir", out]
    assert segment.main([*flags(data, tmp_path), *more]) is None
    assert Store(tmp_path / "out" / "train").images() == ["a", "b", "c"]


@pytest.mark.slow
def test_workers_change_nothing(data, tmp_path):
    for workers in ("0", "1", "3"):
        assert segment.main(flags(data, tmp_path / workers, "--workers", workers)) is None
    assert files(tmp_path / "0") == files(tmp_path / "1") == files(tmp_path / "3")


@pytest.mark.slow
def test_exit_codes_and_messages(data, tmp_path):
    command = [sys.executable, str(ROOT / "segment.py")]
    run = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=300)
    done = run([*command, *flags(data, tmp_path / "out", "--nuc_model", "n.pth", finder="watershed")])
    assert done.returncode == 2
    assert done.stderr == (
        "segment.py: error: --finder watershed does not use --nuc_model, it belongs to hpacellseg: leave it out\n"
    )
    break_missing(data / "train")
    done = run([*command, *flags(data, tmp_path / "out", finder="watershed")])
    assert done.returncode == 1
    assert "skipped a: " in done.stderr and "Traceback" not in done.stderr


DRIVER = """
import sys
sys.path[:0] = [".", "tests"]
import segment, test_segment
test_segment.FINDERS["squares"] = lambda args: test_segment.Finder(test_segment.find_squares)
segment.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(data, tmp_path):
    names = [f"image{number}" for number in range(30)]
    for name in names:
        draw(data / "train", name, shape=(400, 400))
    write_train(data, names)
    out, kills = tmp_path / "out", 0
    for least in (1, 12):
        process = subprocess.Popen([sys.executable, "-c", DRIVER, *flags(data, out, "--workers", "2")], cwd=ROOT)
        while process.poll() is None and len(list((out / "CACHE" / "train").glob("*.csv"))) < least:
            time.sleep(0.005)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    assert segment.main(flags(data, out)) is None
    segment.main(flags(data, tmp_path / "whole"))
    assert files(out) == files(tmp_path / "whole")


def kill_itself(number: int) -> None:
    if number % 5 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 4:
        raise ValueError("four")


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_own_task():
    ends = {number: error for (number,), error in run_each(kill_itself, ((number,) for number in range(10)), 2)}
    assert sorted(ends) == list(range(10))
    assert isinstance(ends[3], WorkerDied) and isinstance(ends[8], WorkerDied)
    assert isinstance(ends[4], ValueError)
    assert all(ends[number] is None for number in (0, 1, 2, 5, 6, 7, 9))


@pytest.mark.slow
def test_a_worker_that_dies_while_the_next_task_is_made():
    """As with a network that finds cells in the main process: only then the pool refuses the next task."""

    def tasks() -> Iterator[tuple[int]]:
        yield (3,)
        time.sleep(3)
        yield (5,)

    ends = {number: error for (number,), error in run_each(kill_itself, tasks(), workers=1)}
    assert isinstance(ends[3], WorkerDied) and ends[5] is None


def find_or_die(image: np.ndarray, prediction) -> Found:
    """Stands for an image that is too large for the memory."""
    if image.shape[0] == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return find_squares(image, prediction)


@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_skipped(data, tmp_path, monkeypatch, capsys):
    draw(data / "train", "a", shape=(50, 50), boxes=())
    monkeypatch.setitem(FINDERS, "squares", lambda args: Finder(find_or_die))
    assert segment.main(flags(data, tmp_path / "out", "--workers", "2")) == 1
    assert "skipped a: its worker process was killed; was there enough memory?" in capsys.readouterr().err
    assert set(all_rows(tmp_path / "out")["ImageID"]) == {"b", "c"}


def test_tasks_are_taken_as_needed():
    taken = []
    ends = run_each(len, ((taken.append(number) or "text",) for number in range(100)), 0)
    next(ends)
    ends.close()
    assert len(taken) <= 3


def test_atomic_leaves_no_file_after_an_error(tmp_path):
    with pytest.raises(Killed), atomic(tmp_path / "a.csv") as temporary:
        temporary.write_text("half")
        raise Killed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_real_images(real_data, tmp_path):
    arguments = flags(real_data / "hpa", tmp_path, "--workers", "2", "--img_size", "768", finder="watershed")
    assert segment.main(arguments) is None
    table = all_rows(tmp_path)
    store = Store(tmp_path / "CROPS" / "train")
    sizes = [path.stat().st_size for path in (tmp_path / "CROPS" / "train").glob("*.zip")]
    assert sum(sizes) / (table["keep"] == 1).sum() < 768 * 768 * 4 / 8
    for image, rows in table.groupby("ImageID"):
        truth = cv2.imread(str(real_data / "hpa" / "segmentator_masks" / f"{image}.png"), cv2.IMREAD_UNCHANGED)
        assert abs(len(rows) - truth.max()) <= 2
        kept = rows[rows["keep"] == 1].iloc[0]
        mask = decode_mask(kept["PredictionString"], *truth.shape)
        crop = store.read(image, kept["CellID"])
        assert crop.shape[0] == max(kept["x2"] - kept["x1"], kept["y2"] - kept["y1"])
        assert (crop.any(axis=2).sum() <= mask.sum()) and mask.sum() == kept["area"]
