"""The competition pannuke: folds and files in, arrays and table out, scores; CoNSeP there and back."""

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import competitions
import makefolds
import segment
import train
from cells.masks import decode_mask
from common.errors import UserError
from competitions import pannuke
from engine.samples import read_fold
from metrics.panoptic import image_quality

SIZE = 24


def draw(*cells: tuple[int, int, int, int]) -> np.ndarray:
    """Masks (SIZE, SIZE, 6) of squares (type, x, y, side) with ids from 3 on, and the background."""
    masks = np.zeros((SIZE, SIZE, 6), np.uint16)
    for label, (kind, x, y, side) in enumerate(cells, start=3):
        masks[y : y + side, x : x + side, kind] = label
    masks[..., 5] = ~masks[..., :5].any(axis=2)
    return masks


MASKS = np.stack([draw((0, 1, 1, 6), (4, 10, 2, 5), (4, 12, 12, 7)), draw(), draw((2, 0, 0, 9), (1, 14, 14, 4))])
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
TYPES = np.array(["Colon", "Colon", "Skin"])


def save(folder: Path, images=IMAGES, masks=MASKS, types=TYPES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images", images), ("masks", masks), ("types", types)):
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    save(tmp_path / "data" / "fold1")
    return save(tmp_path / "data" / "fold2", images=IMAGES.astype(np.float64), masks=MASKS.astype(np.float64)).parent


def test_folds_are_read(root):
    images = pannuke.read_metadata(root)
    assert images["ID"].tolist() == [f"fold{k}_0000{n}" for k in (1, 2) for n in range(3)]
    assert images["type"].tolist() == [*TYPES, *TYPES] and images["fold"].tolist() == ["fold1"] * 3 + ["fold2"] * 3
    labels = pannuke.read_labels(root)
    assert labels["Label"].tolist() == ["0|4", "", "1|2"] * 2
    assert pannuke.multi_hot(labels["Label"])[:3].tolist() == [[1, 0, 0, 0, 1], [0] * 5, [0, 1, 1, 0, 0]]
    for name in ("fold1_00002", "fold2_00002"):  # PanNuke's own arrays are float64
        image = pannuke.read_image(root, name)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, IMAGES[2])
        np.testing.assert_array_equal(pannuke.read_masks(root, name), MASKS[2, ..., :5])
    assert pannuke.image_files(root, "fold2_00000") == [root / "fold2" / "images.npy"]
    assert pannuke.read_metadata(root / "fold2")["ID"].tolist() == ["fold2_00000", "fold2_00001", "fold2_00002"]


def test_folders_as_published(tmp_path):
    for number in (1, 3):
        save(tmp_path / f"Fold {number}" / "images" / f"fold{number}", masks=None)
        save(tmp_path / f"Fold {number}" / "masks" / f"fold{number}", images=None, types=None)
    assert pannuke.read_metadata(tmp_path)["fold"].unique().tolist() == ["fold1", "fold3"]
    np.testing.assert_array_equal(pannuke.read_masks(tmp_path, "fold3_00000"), MASKS[0, ..., :5])


def test_files_are_the_same_as_arrays(root, tmp_path):
    single = tmp_path / "single"
    names = pannuke.read_metadata(root / "fold1")["ID"]
    for kind in ("images", "masks"):
        (single / kind).mkdir(parents=True)
    for name, image, masks in zip(names, IMAGES, MASKS, strict=True):
        cv2.imwrite(str(single / "images" / f"{name}.png"), image[..., ::-1])
        np.savez_compressed(single / "masks" / f"{name}.npz", masks=masks)
    pd.DataFrame({"ID": names[::-1], "type": TYPES[::-1]}).to_csv(single / "types.csv", index=False)
    pd.testing.assert_frame_equal(
        pannuke.read_labels(single).drop(columns="fold"), pannuke.read_labels(root / "fold1").drop(columns="fold")
    )
    pd.testing.assert_frame_equal(pannuke.read_cells(single), pannuke.read_cells(root / "fold1"))
    np.testing.assert_array_equal(pannuke.read_image(single, names[0]), IMAGES[0])


def test_masks_of_another_size_than_their_image(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), IMAGES[0])
    np.savez_compressed(tmp_path / "masks" / "a.npz", masks=MASKS[0, : SIZE // 2])
    size = (SIZE, SIZE)
    message = rf"a.npz has masks of \({SIZE // 2}, {SIZE}\) \(height, width\), but .*a.png has {re.escape(str(size))}"
    with pytest.raises(UserError, match=message):
        pannuke.read_masks(tmp_path, "a")


def test_other_kinds_of_images_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), IMAGES[0])
    with pytest.raises(UserError, match=r"images has a.jpg; <ImageID>.png is right"):
        pannuke.read_metadata(tmp_path)


def test_no_split_without_its_name(root, tmp_path):
    flags = ["--competition", "pannuke", "--metadata", str(root), "--root_dir", str(root), "--out_dir", "run"]
    with pytest.raises(UserError, match="--split_name is missing: pannuke has no published one for --arch unet_"):
        train.main([*flags, "--result_dir", str(tmp_path)])


def test_a_fold_is_found_and_scored_by_its_table_alone(root, tmp_path):
    folds = ["--competition", "pannuke", "--metadata", str(root), "--folds_dir", str(tmp_path), "--split_name", "by"]
    makefolds.main([*folds, "--by", "fold", "--tables"])
    held = tmp_path / "by" / "fold1.csv"
    images = pannuke.read_metadata(held)
    assert images["ID"].tolist() == ["fold2_00000", "fold2_00001", "fold2_00002"]
    cells = pannuke.read_cells(held, root=root)
    pd.testing.assert_frame_equal(cells, pannuke.read_cells(root / "fold2"))
    pannuke.write_submission(tmp_path / "own.csv", images, cells, np.eye(5)[cells["Label"].astype(int)])
    for name in ("own.csv", "own_masks.npy"):
        table = pannuke.score(tmp_path / name, held, root=root)
        pd.testing.assert_frame_equal(table, pannuke.score(tmp_path / name, root / "fold2"))
        with pytest.raises(UserError, match="fold1.csv is a table; the folder with the masks must be named"):
            pannuke.score(tmp_path / name, held)


def test_a_fold_is_kept_for_the_score(tmp_path):
    (tmp_path / "x").mkdir()
    pd.DataFrame({"ID": list("abcdef"), "Label": "0", "Fold": [0, 0, 1, 1, 2, 2]}).to_csv(
        tmp_path / "x" / "images.csv", index=False
    )
    own = competitions.get("pannuke")
    parts = read_fold(tmp_path, "x", 1, own, test_fold=0)
    assert [part["ID"].tolist() for part in parts] == [["e", "f"], ["c", "d"]]
    for wrong in (1, 3):
        with pytest.raises(UserError, match=f"--test_fold {wrong} must be another fold than --fold 1 of .*0, 1, 2"):
            read_fold(tmp_path, "x", 1, own, test_fold=wrong)


def test_the_labelled_nuclei_of_a_folder_as_finder(root, tmp_path):
    flags = ["--competition", "pannuke", "--metadata", str(root), "--root_dir", str(root), "--finder", "truth"]
    for name in ("meta_dir", "crop_dir", "img_dir", "cache_dir"):
        flags += [f"--{name}", str(tmp_path / name)]
    assert segment.main([*flags, "--img_size", "64", "--workers", "0"]) is None
    (table,) = (tmp_path / "meta_dir").glob("*_cell.csv")
    cells = pd.read_csv(table)
    assert len(cells) == len(pannuke.read_cells(root)) and (cells["keep"] == 1).all()  # those at the border, too


def test_cells_table_and_class_map(root):
    cells = pannuke.read_cells(root / "fold1")
    assert cells["ImageID"].tolist() == ["fold1_00000"] * 3 + ["fold1_00002"] * 2
    assert cells["Label"].tolist() == ["0", "4", "4", "1", "2"]
    assert cells[["x1", "y1", "x2", "y2"]].iloc[1].tolist() == [10, 2, 15, 7]
    np.testing.assert_array_equal(decode_mask(cells["PredictionString"][1], SIZE, SIZE), MASKS[0, ..., 4] == 4)
    own = pannuke.class_map(pannuke.read_masks(root, "fold1_00000"))
    assert own[1, 1] == 0 and own[3, 12] == 4 and own[0, 0] == 5
    np.testing.assert_array_equal(own == 5, MASKS[0, ..., 5] == 1)


def test_where_types_overlap_the_last_one_counts():
    masks = np.zeros((1, 3, 2), np.int32)
    masks[0, :, 0], masks[0, :, 1] = [1, 1, 0], [0, 1, 1]
    assert pannuke.class_map(masks).tolist() == [[0, 1, 1]]


def test_truth_against_itself_scores_one_by_table_and_by_arrays(root, tmp_path):
    cells, images = pannuke.read_cells(root), pannuke.read_metadata(root)
    probs = np.eye(5)[cells["Label"].astype(int)]
    pannuke.write_submission(tmp_path / "out" / "found.csv", images, cells, probs)
    by_table = pannuke.score(tmp_path / "out" / "found.csv", root)
    assert by_table["Class"].tolist() == ["Colon", "Skin", "mean"]
    assert (by_table[["mPQ", "bPQ", "Dice"]] == 1).all(axis=None)
    assert by_table["Truths"].tolist() == [6, 4, 10] and by_table["Images"].tolist() == [4, 2, 6]
    pd.testing.assert_frame_equal(pannuke.score(tmp_path / "out" / "found_masks.npy", root), by_table)
    pd.testing.assert_frame_equal(pannuke.score_cells(cells, probs, images["ID"], root), by_table)
    arrays = np.load(tmp_path / "out" / "found_masks.npy")
    assert arrays.shape == (6, SIZE, SIZE, 6)
    np.testing.assert_array_equal(arrays > 0, np.concatenate([MASKS, MASKS]) > 0)
    pannuke.write_submission(tmp_path / "out" / "none.csv", images, cells.iloc[:0], probs[:0])
    none = np.load(tmp_path / "out" / "none_masks.npy")
    assert none.shape == arrays.shape and (none[..., :5] == 0).all() and (none[..., 5] == 1).all()
    sizes = images.assign(ImageWidth=[SIZE] * 5 + [30])
    pannuke.write_submission(tmp_path / "out" / "found.csv", sizes, cells, probs)
    assert not (tmp_path / "out" / "found_masks.npy").exists()
    table = pd.read_csv(tmp_path / "out" / "found.csv", keep_default_na=False)
    assert table["ImageID"].drop_duplicates().tolist() == images["ID"].tolist()  # those without cells, too
    assert table.loc[table["ImageID"] == "fold1_00001", ["CellID", "Label"]].to_numpy().tolist() == [[0, ""]]


def test_a_wrong_type_costs_mpq_but_not_bpq(root):
    cells = pannuke.read_cells(root / "fold1")
    probs = np.eye(5)[cells["Label"].astype(int)]
    probs[0] = np.eye(5)[3]  # image 0: one neoplastic of its two types is called dead
    table = pannuke.score_cells(cells, probs, pannuke.read_metadata(root / "fold1")["ID"], root / "fold1")
    table = table.set_index("Class")
    assert table.at["Colon", "bPQ"] == 1 and table.at["Colon", "mPQ"] == 0.5 and table.at["mean", "mPQ"] == 0.75
    assert table.at["Colon", "Dice"] < 1 and table.at["Skin", "Dice"] == 1
    arrays = MASKS.copy()
    arrays[1, 5, 5] = [0, 0, 0, 7, 0, 0]  # one pixel of a type that no image has
    np.save(root / "found.npy", arrays)
    assert pannuke.score(root / "found.npy", root / "fold1")["Dice"].iloc[0] > 0.999
    none = pannuke.score_cells(cells.iloc[:0], probs[:0], ["fold1_00000"], root)
    assert none[["mPQ", "bPQ"]].iloc[-1].tolist() == [0, 0]


def test_own_classes(tmp_path):
    folder = save(tmp_path / "fold1", masks=MASKS[..., [0, 1, 5]])
    own = competitions.get("pannuke", "Tumour,Immune")
    assert own.read_labels(folder)["Label"].tolist() == ["0", "", "1"]
    with pytest.raises(UserError, match="the 5 classes Neoplastic, .* need 6 channels"):
        pannuke.read_labels(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[..., 0]}, "images.npy holds uint8 \\(3, 24, 24\\)"),
        ({"images": IMAGES.astype(str)}, "images.npy holds <U"),
        ({"images": IMAGES / 255}, "images.npy, fold1_00000: the values must be whole numbers of 0 to 255"),
        ({"images": None}, "but no images.npy"),
        ({"masks": MASKS[:, :20]}, "masks.npy has \\(3, 20, 24\\) \\(N, H, W\\), but .*images.npy \\(3, 24, 24\\)"),
        ({"masks": MASKS[:2]}, "masks.npy has \\(2, 24, 24\\)"),
        ({"masks": MASKS > 0}, "masks.npy holds bool"),
        ({"masks": MASKS - 1.0}, "masks.npy, fold1_00000.*: the values must be whole"),
        ({"masks": MASKS[..., ::-1]}, "the last channel, the background: the values must be whole numbers of 0 to 1"),
        ({"types": TYPES[:2]}, "types.npy holds .* 3 texts, one an image"),
        ({"types": np.array([{}, 1, "x"], object)}, "types.npy cannot be read as an array"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, change, message):
    folder = save(tmp_path / "fold1", **change)
    with pytest.raises(UserError, match=message):
        pannuke.read_labels(folder)
        pannuke.read_image(folder, "fold1_00000")


def test_other_bad_input_is_refused(root, tmp_path):
    save(root / "copy" / "Fold_2", masks=None, types=None)
    with pytest.raises(UserError, match="fold2 is there twice"):
        pannuke.read_metadata(root)
    with pytest.raises(UserError, match="lies in no folder that says which fold it is"):
        pannuke.read_metadata(save(tmp_path / "arrays"))
    (tmp_path / "empty" / "fold1").mkdir(parents=True)
    with pytest.raises(UserError, match="has neither arrays"):
        pannuke.read_metadata(tmp_path / "empty")
    single = save(tmp_path / "short" / "fold1", masks=None)
    for name in ("fold1_00003", "fold7_00000", "x"):
        with pytest.raises(UserError, match=f"has no image {name}"):
            pannuke.read_image(single, name)
    with pytest.raises(UserError, match="has no masks.npy"):
        pannuke.read_masks(single, "fold1_00000")
    (single / "types.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="types.npy cannot be read"):
        pannuke.read_metadata(single.parent)


def test_bad_submissions_are_refused(root, tmp_path):
    cells, images = pannuke.read_cells(root / "fold1"), pannuke.read_metadata(root / "fold1")
    pannuke.write_submission(tmp_path / "a.csv", images, cells, np.eye(5)[cells["Label"].astype(int)])
    with pytest.raises(UserError, match="a.csv has no row for fold2_00000"):
        pannuke.score(tmp_path / "a.csv", root)
    with pytest.raises(UserError, match="the truth needs \\(6, height, width, 6\\)"):
        pannuke.score(tmp_path / "a_masks.npy", root)
    table = pd.read_csv(tmp_path / "a.csv", keep_default_na=False, dtype=str)
    table.assign(Label="5").to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(UserError, match="row 2: Label '5' must be a class index 0 to 4"):
        pannuke.score(tmp_path / "b.csv", root / "fold1")
    np.save(tmp_path / "c.npy", MASKS[:, :20])
    with pytest.raises(UserError, match="the finds of fold1_00000 have \\(20, 24\\) pixels, but \\(24, 24\\)"):
        pannuke.score(tmp_path / "c.npy", root / "fold1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.astype(str), "c.npy holds <U"),
        (lambda arrays: arrays > 0, "c.npy holds bool"),
        (lambda arrays: arrays - 1.0, "c.npy, fold1_00000: the values must be whole numbers of 0"),
        (lambda arrays: arrays / 2, "c.npy, fold1_00000: the values must be whole numbers of 0"),
        (lambda arrays: np.where(arrays > 0, np.nan, 0), "c.npy, fold1_00000: the values must be whole numbers of 0"),
        (lambda arrays: arrays.astype(np.uint64) << 40, "c.npy, fold1_00000: the values must be whole numbers of 0"),
    ],
)
def test_arrays_of_other_numbers_are_refused(root, tmp_path, change, message):
    np.save(tmp_path / "c.npy", change(MASKS))
    with pytest.raises(UserError, match=message):
        pannuke.score(tmp_path / "c.npy", root / "fold1")


def test_cells_without_a_type_are_refused(root, tmp_path):
    cells, images = pannuke.read_cells(root / "fold1"), pannuke.read_metadata(root / "fold1")
    pannuke.write_submission(tmp_path / "a.csv", images, cells, np.eye(5)[cells["Label"].astype(int)])
    table = pd.read_csv(tmp_path / "a.csv", keep_default_na=False, dtype=str)
    table.loc[1, "Label"] = ""
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match="a.csv row 3: Label '' must be a class index 0 to 4"):
        pannuke.score(tmp_path / "a.csv", root / "fold1")


def test_other_types_have_another_digest(root, tmp_path):
    first = pannuke.digest_labels(root)
    assert pannuke.digest_labels(root) == first
    save(root / "fold1", masks=MASKS[..., [1, 0, 2, 3, 4, 5]])
    assert pannuke.digest_labels(root) != first
    (tmp_path / "single" / "masks").mkdir(parents=True)
    marks = set()
    for masks in (MASKS[0], MASKS[2]):
        np.savez_compressed(tmp_path / "single" / "masks" / "a.npz", masks=masks)
        marks.add(pannuke.digest_labels(tmp_path / "single"))
    assert len(marks) == 2


def test_input_is_equalised_and_standardised():
    image = np.random.default_rng(0).normal(128, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    image[0, 0] = 255
    ready = pannuke.standardize(image)
    slow = [(image[..., c] - image[..., c].mean()) / image[..., c].std() for c in range(3)]
    np.testing.assert_allclose(ready, np.dstack(slow), rtol=1e-5, atol=1e-5)
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[0, 0] = 255
    assert pannuke.standardize(dot).max() == 10  # clipped from 64
    grey = np.repeat(image[..., :1] // 4 + 90, 3, axis=2)
    assert pannuke.equalize(grey).std() > grey.std()
    ready = pannuke.prepare_image(image)
    seen = (ready / 255 - np.float32(pannuke.MEAN)) / np.float32(pannuke.STD)  # the networks' own first step
    np.testing.assert_allclose(seen, pannuke.standardize(pannuke.equalize(image)), atol=1e-4)


def test_consep_there_and_back(real_data, tmp_path):
    own = competitions.get("pannuke", "Other,Inflammatory,Epithelial,Spindle")
    folder = real_data / "consep"
    images = own.read_metadata(folder / "fold1").iloc[:8]
    cells = own.read_cells(folder / "fold1")
    cells = cells[cells["ImageID"].isin(images["ID"])].reset_index(drop=True)
    probs = np.eye(4)[cells["Label"].astype(int)]
    assert own.score_cells(cells, probs, images["ID"], folder)[["mPQ", "bPQ", "Dice"]].iloc[-1].tolist() == [1, 1, 1]
    np.save(tmp_path / "found_masks.npy", np.zeros(1))
    own.write_submission(tmp_path / "found.csv", images, cells, probs)
    arrays = np.load(tmp_path / "found_masks.npy")
    truth = np.load(folder / "fold1" / "masks.npy", mmap_mode="r")[:8]
    np.testing.assert_array_equal(arrays > 0, truth > 0)
    for own_masks, masks in zip(arrays, truth, strict=True):
        scores = image_quality(masks[..., :4], own_masks[..., :4])
        assert np.nanmin(scores) == 1
