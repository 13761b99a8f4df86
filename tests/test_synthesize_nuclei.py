"""Made-up H&E tiles and phase-contrast fields: files as the competitions have them, determinism, exact truth."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synthesize
from cells import rle
from cells.table import read_table
from common.errors import UserError
from common.seeds import rng
from competitions import neurons as neurons_form
from competitions import pannuke as pannuke_form
from synthesis import neurons, pannuke, pictures
from synthesis.pictures import Request

MODULES = {"pannuke": pannuke, "neurons": neurons}
FLAGS = {
    "pannuke": ["--train", "8", "--size", "144x128"],
    "neurons": ["--train", "3", "--test", "2", "--size", "200x160"],
}


def make(folder: Path, name: str, *flags: str) -> Path:
    assert not synthesize.main(["--competition", name, "--out_dir", str(folder), "--seed", "4", *FLAGS[name], *flags])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("made") / name, name) for name in MODULES}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- files


def test_folds_have_the_published_form(made):
    folds = [{kind: np.load(made["pannuke"] / f"fold{fold}" / f"{kind}.npy", mmap_mode="r")
              for kind in ("images", "masks", "types")} for fold in (1, 2, 3)]  # fmt: skip
    assert [len(fold["images"]) for fold in folds] == [3, 3, 2]
    for fold in folds:
        count = len(fold["images"])
        assert fold["images"].shape == (count, 128, 144, 3) and fold["images"].dtype == np.uint8
        assert fold["masks"].shape == (count, 128, 144, 6) and fold["masks"].dtype == np.uint16
        assert fold["types"].shape == (count,) and set(fold["types"].tolist()) <= set(pannuke.TISSUES)
        for masks in fold["masks"]:
            assert ((masks > 0).sum(axis=2) == 1).all() and set(np.unique(masks[..., 5])) <= {0, 1}
            owners = [set(np.unique(masks[..., kind])) - {0} for kind in range(5)]
            numbers = sorted(number for owner in owners for number in owner)
            assert numbers == list(range(1, len(numbers) + 1))


def test_folds_hold_the_tiles_as_they_were_drawn(made):
    request = Request(4, 144, 128)
    for index in (0, 5, 7):
        tile = pannuke.draw_image(request, "train", index)
        folder, place = made["pannuke"] / f"fold{index % 3 + 1}", index // 3
        masks = np.load(folder / "masks.npy")[place]
        assert (np.load(folder / "images.npy")[place] == tile.pixels).all()
        assert (masks[..., :5].sum(axis=2) == tile.labels).all()
        for number, kind in enumerate(tile.classes, start=1):
            assert (masks[..., kind - 1] == number).sum() >= 12
        assert np.load(folder / "types.npy")[place] == pannuke.tissue_of(request, index)


def test_a_fold_without_tiles_is_an_empty_array(tmp_path):
    folder = make(tmp_path / "few", "pannuke", "--train", "1")
    assert np.load(folder / "fold3" / "masks.npy").shape == (0, 128, 144, 6)
    assert np.load(folder / "fold3" / "types.npy").shape == (0,)


def test_neurons_have_the_competitions_form(made):
    folder = made["neurons"]
    for split, name, count in (("train", "train.csv", 3), ("test", "test_truth.csv", 2)):
        table = read_table(folder / name, neurons.COLUMNS)
        assert list(table) == ["id", "annotation", "width", "height", "cell_type"]
        assert set(table["width"]) == {200} and set(table["height"]) == {160}
        assert sorted(path.stem for path in (folder / split).iterdir()) == sorted(set(table["id"]))
        assert table["id"].nunique() == count
        assert (table.groupby("id")["cell_type"].nunique() == 1).all() and set(table["cell_type"]) <= {*neurons.CLASSES}
        for image_id, rows in table.groupby("id"):
            assert cv2.imread(str(folder / split / f"{image_id}.png"), cv2.IMREAD_UNCHANGED).shape == (160, 200)
            taken = sum(rle.decode(text, 160, 200).astype(int) for text in rows["annotation"])
            assert taken.max() == 1
    plain = read_table(folder / "train_plain.csv", {"id": str, "annotation": str})
    train = read_table(folder / "train.csv", neurons.COLUMNS)
    assert list(plain) == ["id", "annotation"] and plain.equals(train[["id", "annotation"]])
    sample = read_table(folder / "sample_submission.csv", {"id": str, "predicted": str}, key=["id"])
    truth = read_table(folder / "test_truth.csv", neurons.COLUMNS)
    assert list(sample) == ["id", "predicted"] and set(sample["id"]) == set(truth["id"])
    assert (sample["predicted"] == "").all()


def test_run_lengths_are_those_of_the_drawn_cells(made):
    request = Request(4, 200, 160)
    _, labels, cell_type = neurons.draw_image(request, "train", 1)
    table = read_table(made["neurons"] / "train.csv", neurons.COLUMNS)
    rows = table[table["id"] == pictures.image_id(request, "train", 1)]
    assert set(rows["cell_type"]) == {cell_type} and len(rows) == labels.max()
    for number, text in enumerate(rows["annotation"], start=1):
        assert (rle.decode(text, 160, 200) == (labels == number)).all()


def test_the_competitions_modules_read_the_truth(made):
    cells = pannuke_form.read_cells(made["pannuke"])
    masks = [np.load(made["pannuke"] / f"fold{fold}" / "masks.npy") for fold in (1, 2, 3)]
    assert len(cells) == sum(int(tile[..., :5].max()) for fold in masks for tile in fold)
    assert list(neurons_form.CLASSES) == sorted(neurons.CLASSES, key=neurons_form.CLASSES.index)
    assert pannuke_form.CLASSES == pannuke.CLASSES
    for table, split in (("train.csv", "train"), ("test_truth.csv", "test")):
        rows = read_table(made["neurons"] / table, neurons.COLUMNS)
        assert len(neurons_form.read_cells(made["neurons"] / table, made["neurons"] / split)) == len(rows)


def test_what_a_killed_run_left_is_removed(made, tmp_path):
    folder = make(tmp_path / "killed", "neurons")
    (folder / "train" / ".0123.999.tmp.png").write_bytes(b"half")
    make(folder, "neurons")
    assert files(folder) == files(made["neurons"])


@pytest.mark.parametrize("name", MODULES)
def test_running_again_draws_only_what_is_missing(made, tmp_path, monkeypatch, name):
    folder = make(tmp_path / name, name)
    assert files(folder) == files(made[name])
    sorted(folder.rglob("*.png"))[0].unlink()
    drawn, original = [], MODULES[name].write_image
    monkeypatch.setattr(MODULES[name], "write_image", lambda *task: drawn.append(task) or original(*task))
    make(folder, name)
    assert len(drawn) == 1 and files(folder) == files(made[name])
    make(folder, name, "--train", "9")
    assert len(drawn) == {"pannuke": 2, "neurons": 7}[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_jobs_do_not_change_a_byte(made, tmp_path, name):
    assert files(make(tmp_path / name, name, "--jobs", "2")) == files(made[name])


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("pannuke", ("--test", "3"), "--test is not for pannuke, which has only train"),
        ("pannuke", ("--train", "0"), "--train 0 asks for no image"),
        ("neurons", ("--val", "3"), "--val is not for neurons, which has only train, test"),
        ("neurons", ("--cells", "9-3"), "--cells 9-3 must be MIN-MAX"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(tmp_path, name, flags, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path / "none", name, *flags)
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- what is drawn


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(128, 300), st.integers(128, 300), st.integers(1, 40))
def test_any_size_and_number_of_cells_can_be_drawn(seed, width, height, count):
    request = Request(seed, width, height, (count, count), "flat")
    tile = pannuke.draw_image(request, "train", 0)
    assert tile.pixels.shape == (height, width, 3) and tile.labels.shape == (height, width)
    assert len(tile.classes) == tile.labels.max() == len(np.unique(tile.labels)) - 1 <= count
    pixels, labels, _ = neurons.draw_image(request, "test", 0)
    assert pixels.shape == labels.shape == (height, width) and pixels.dtype == np.uint8
    assert labels.max() == len(np.unique(labels)) - 1 <= count


def test_a_cell_is_one_piece():
    for index in range(3):
        _, labels, _ = neurons.draw_image(Request(5, 400, 300, None, "flat"), "train", index)
        for number in range(1, int(labels.max()) + 1):
            assert cv2.connectedComponents((labels == number).astype(np.uint8), connectivity=4)[0] == 2


def test_crowds_have_the_sizes_of_the_real_cells():
    """Median areas of the real cells: 183 (shsy5y), 388 (astro), 122 (cort); real images have 337, 80, 34 cells."""
    found: dict[str, list] = {name: [] for name in neurons.CLASSES}
    counts: dict[str, list] = {name: [] for name in neurons.CLASSES}
    for index in range(14):
        _, labels, name = neurons.draw_image(Request(1, 352, 260, None, "flat"), "train", index)
        found[name].extend(np.bincount(labels.ravel())[1:])
        counts[name].append(labels.max())
    for name, area, count in (("shsy5y", 183, 337 / 4), ("astro", 388, 80 / 4), ("cort", 122, 34 / 4)):
        assert 0.6 < np.median(found[name]) / area < 1.6
        assert 0.5 < np.mean(counts[name]) / count < 1.7


def test_types_of_nuclei_come_as_often_as_in_the_real_tiles():
    tiles = [pannuke.draw_image(Request(2, 128, 128), "train", index) for index in range(150)]
    kinds = np.concatenate([tile.classes for tile in tiles]).astype(int)
    shares = np.bincount(kinds - 1, minlength=5) / len(kinds)
    wanted = pictures.frequencies((look.count for look in pannuke.LOOKS.values()), "natural")
    assert np.abs(shares - wanted).max() < 0.1
    assert sum(not tile.classes for tile in tiles) >= 2
    assert len(kinds) / len(tiles) == pytest.approx(24 / 4, rel=0.35)


def test_connective_nuclei_are_slender_and_inflammatory_ones_small():
    shapes: dict[int, list] = {kind: [] for kind in range(1, 6)}
    for index in range(25):
        tile = pannuke.draw_image(Request(3, 200, 200, (16, 16), "flat"), "train", index)
        for number, kind in enumerate(tile.classes, start=1):
            contours, _ = cv2.findContours((tile.labels == number).astype(np.uint8), 0, cv2.CHAIN_APPROX_NONE)
            (_, (one, other), _) = cv2.minAreaRect(max(contours, key=len))
            shapes[kind].append((max(one, other) / (min(one, other) + 1), (tile.labels == number).sum()))
    length, area = np.array([np.median(shapes[kind], axis=0) for kind in range(1, 6)]).T
    assert length[2] > 1.4 * max(length[[0, 1, 3, 4]])
    assert area[0] > area[4] > 1.5 * area[1]


def test_nuclei_are_darker_than_what_is_around_them():
    for index in range(6):
        tile = pannuke.draw_image(Request(8, 200, 200, (20, 20)), "train", index)
        red = tile.pixels[..., 0].astype(float)
        assert red[tile.labels > 0].mean() < red[tile.labels == 0].mean() - 30


# ---------------------------------------------------------------- learnable, but not at once


@pytest.mark.slow
def test_the_types_of_nuclei_can_be_learned_but_not_at_once():
    from sklearn.ensemble import RandomForestClassifier

    traits, kinds = [], []
    for index in range(60):
        tile = pannuke.draw_image(Request(9, 256, 256, (15, 15), "flat"), "train", index)
        for number, kind in enumerate(tile.classes, start=1):
            mask = tile.labels == number
            colours = tile.pixels[mask]
            around = tile.pixels[cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~mask]
            traits.append([*colours.mean(axis=0), *colours.std(axis=0), *around.mean(axis=0)])
            kinds.append(kind)
    split = len(kinds) * 2 // 3
    forest = RandomForestClassifier(100, random_state=0).fit(traits[:split], kinds[:split])  # colours only, no shape
    accuracy = (forest.predict(traits[split:]) == np.array(kinds[split:])).mean()
    assert 0.4 < accuracy < 0.9


def test_no_threshold_finds_the_neurons():
    """The best IoU that any threshold on the blurred contrast reaches with the cells stays low."""
    pixels, labels, _ = neurons.draw_image(Request(3, 704, 520, None, "flat"), "train", 1)
    contrast = cv2.GaussianBlur(np.abs(pixels.astype(np.float32) - 128), (0, 0), 2)
    truth = labels > 0
    scores = [(truth & (contrast > level)).sum() / (truth | (contrast > level)).sum() for level in range(1, 30)]
    assert 0.2 < max(scores) < 0.9


def test_web_and_dirt_belong_to_no_cell():
    canvas, labels = np.zeros((2, 200, 200), np.float32), np.zeros((200, 200), np.uint16)
    culture = neurons.Culture(rng(1), canvas[0], labels, canvas[1])
    neurons._draw_web(culture, neurons.LOOKS["cort"])
    neurons._draw_debris(culture)
    assert culture.darkness.any() and not culture.labels.any()
