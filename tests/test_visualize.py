"""Pictures: what is drawn where, what is judged true, and the script end to end."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import visualize
from cells.crops import boxes
from cells.masks import encode_label_image, encode_mask
from cells.store import write_shard
from cells.table import read_cells, write_table
from common.errors import UserError
from common.seeds import rng
from competitions import hpa
from engine.checkpoints import save
from losses import build_loss
from models import Classifier, build
from pictures import judging, opinions
from pictures.cams import grad_cam
from pictures.composite import alone, composite, cut, shrink, shrink_mask, square, stretch
from pictures.curves import best_scores, run_names
from pictures.drawing import (
    GREY,
    RIGHT,
    WHITE,
    Line,
    Mark,
    class_colour,
    draw_cells,
    fit,
    label_place,
    outlines,
    printable,
    text_size,
)  # fmt: skip
from pictures.marks import cell_mark, confidence, top_classes
from pictures.sheet import grid, tile
from pictures.tiles import heated

SIZE = 64
CELLS = {1: (4, 4, 30, 28), 2: (34, 6, 60, 30), 3: (8, 36, 34, 60), 4: (50, 50, 64, 64)}  # x1, y1, x2, y2
DROPPED = 4
TRUE = {1: "0", 2: "16", 3: "2"}


def box_mask(box: tuple, shape: tuple = (SIZE, SIZE)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def cells_table(boxes: dict, images: list[str], **columns) -> pd.DataFrame:
    rows = [
        {"Image": f"{name}+{cell}", "ImageID": name, "CellID": cell, "ImageWidth": SIZE, "ImageHeight": SIZE,
         "PredictionString": encode_mask(box_mask(box)), **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
         **{column: values[cell] for column, values in columns.items()}}
        for name in images for cell, box in boxes.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def probs_of(keys: list[tuple[str, int]], given: dict[tuple[str, int], dict[int, float]]) -> pd.DataFrame:
    values = np.full((len(keys), len(hpa.CLASSES)), 0.02)
    for row, key in enumerate(keys):
        for index, value in given.get(key, {}).items():
            values[row, index] = value
    table = pd.DataFrame(values, columns=list(hpa.CLASSES))
    table.insert(0, "ImageID", [name for name, _ in keys])
    table.insert(1, "CellID", [cell for _, cell in keys])
    return table


@pytest.fixture
def data(tmp_path: Path) -> SimpleNamespace:
    """Two images of four cells (the fourth dropped), in a folder whose name is not ASCII; probabilities and truth."""
    work = tmp_path / "Bilder für α"
    names = ["one", "zwei ü"]
    root = work / "test"
    root.mkdir(parents=True)
    for name in names:
        for channel in hpa.CHANNELS:
            image = rng(3, name, channel).integers(0, 60, (SIZE, SIZE), dtype=np.uint8)
            image[10:20, 10:20] = 220
            (root / f"{name}_{channel}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
        crops = {cell: rng(4, cell).integers(0, 255, (26, 26, 4), dtype=np.uint8) for cell in TRUE}
        write_shard(work / "crops" / f"{name}.zip", crops)
    cells = cells_table(CELLS, names, keep=dict.fromkeys(CELLS, 1) | {DROPPED: 0})
    write_table(cells, work / "cells.csv")
    truth = cells_table({cell: CELLS[cell] for cell in TRUE}, names, Label=TRUE)
    write_table(truth, work / "truth.csv")
    keys = [(name, cell) for name in names for cell in TRUE]
    known = {(name, cell): {int(TRUE[cell]): 0.8} for name, cell in keys}
    known["one", 2] = {16: 0.1, 7: 0.95}
    write_table(probs_of(keys, known), work / "probs.csv")
    sample = cells[["ImageID", "ImageWidth", "ImageHeight"]].drop_duplicates().rename(columns={"ImageID": "ID"})
    sample["PredictionString"] = "0 1 " + encode_mask(np.zeros((SIZE, SIZE), bool))
    write_table(sample, work / "sample_submission.csv")
    kept = read_cells(work / "cells.csv")
    hpa.write_submission(work / "submission.csv", sample, kept,
                         probs_of(keys, known)[list(hpa.CLASSES)].to_numpy())  # fmt: skip
    return SimpleNamespace(work=work, root=root, out=work / "pics", names=names, keys=keys)


def flags(data: SimpleNamespace, mode: str, *more: str) -> list[str]:
    own = {
        "overlays": ["--metadata", "sample_submission.csv", "--root_dir", "test"],
        "contact_sheet": ["--crop_dir", "crops"], "misses": ["--root_dir", "test", "--truth", "truth.csv"],
    }[mode]  # fmt: skip
    argv = [*own, "--cell_meta_csv_path", "cells.csv", *more, "--out_path", "pics"]
    known = {"cells.csv", "truth.csv", "probs.csv", "submission.csv", "sample_submission.csv", "test", "crops", "pics"}
    return [mode, *(str(data.work / word) if word in known else word for word in argv)]


def read_png(path: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


# ---- colours


@pytest.mark.parametrize(
    ("channel", "colour"),
    [(0, (204, 0, 0)), (1, (0, 255, 0)), (2, (26, 64, 255)), (3, (102, 82, 0))],
)
def test_each_channel_has_its_colour(channel, colour):
    pixel = np.zeros((1, 1, 4), np.float32)
    pixel[..., channel] = 1
    assert np.abs(composite(pixel)[0, 0].astype(int) - colour).max() <= 1


def test_a_full_pixel_is_clipped_not_wrapped():
    assert composite(np.ones((1, 1, 4), np.float32))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stretch_goes_from_black_to_white_in_each_channel_alone(dtype):
    ramp = np.linspace(0.1, 0.5, 10_000).reshape(100, 100)
    image = np.dstack([ramp, 2 * ramp, 0 * ramp, 0 * ramp + 0.3]) * np.iinfo(dtype).max
    low, high = 0.1 + 0.4 * 0.005, 0.1 + 0.4 * 0.998
    result = stretch(image.astype(dtype))
    expected = np.clip((ramp - low) / (high - low), 0, 1)
    assert np.abs(result[..., 0] - expected).max() < 0.02
    assert np.abs(result[..., 1] - expected).max() < 0.02
    assert result[..., 2:].max() == 0


def test_noise_is_not_blown_up():
    noise = rng(0).integers(0, 4, (50, 50, 4), dtype=np.uint8)
    assert stretch(noise).max() <= 3 / 255 / 0.06 + 1e-6


def test_a_crop_is_stretched_within_the_cell_and_zero_stays_black():
    crop = np.zeros((20, 20, 4), np.uint8)
    crop[:2, :2] = 100  # 1 % of the picture, which the percentile of all pixels would hide
    result = stretch(crop, masked=True)
    assert result[:2, :2].min() == 1 and result[5:].max() == 0
    assert not stretch(np.zeros((5, 5, 4), np.uint8), masked=True).any()


def test_alone_shows_one_channel_in_grey():
    channels = np.zeros((2, 2, 4), np.float32)
    channels[0, 1, 2] = 0.5
    assert alone(channels, 2)[0, 1].tolist() == [128, 128, 128]
    assert not alone(channels, 1).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 80))
def test_shrink_brings_the_longer_side_to_the_size(height, width, size):
    shape = shrink(np.zeros((height, width, 4), np.uint8), size).shape
    assert max(shape[:2]) == size and min(shape[:2]) >= 1
    assert shrink_mask(np.ones((height, width), bool), shape).all()


def test_square_and_cut_pad_with_zeros():
    assert square((10, 20, 30, 40), 0.25) == (5, 15, 30)
    image = np.arange(16, dtype=np.uint8).reshape(4, 4) + 1
    assert cut(image, 2, 2, 3, 3).tolist() == [[11, 12, 0], [15, 16, 0], [0, 0, 0]]
    assert cut(image, -1, -1, 2, 2).tolist() == [[0, 0], [0, 1]]
    assert not cut(image, 9, 9, 2, 2).any()


def test_class_colours_differ_and_are_readable_on_black():
    colours = [class_colour(index) for index in range(len(hpa.CLASSES))]
    assert len(set(colours)) == len(colours)
    assert all(np.dot(colour, (0.299, 0.587, 0.114)) > 0.44 * 255 for colour in colours)


# ---- outlines and labels


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of the mask with a neighbour (of four) outside; the world beyond the picture is outside."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_outlines_are_the_outermost_pixels(seed):
    noise = rng(seed).random((30, 40)).astype(np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), 3) > 0.5
    drawn = np.zeros_like(mask)
    for contour in outlines(mask):
        drawn[contour[:, 1], contour[:, 0]] = True
    assert (mask[drawn]).all()
    near = cv2.dilate((~np.pad(mask, 1)).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    assert not (drawn & ~near).any()
    assert not (boundary(mask)[1:-1, 1:-1] & ~drawn[1:-1, 1:-1]).any()


def test_outline_lies_on_the_edge_and_nowhere_else():
    mask = box_mask((10, 12, 30, 40))
    picture = draw_cells(np.zeros((SIZE, SIZE, 3), np.uint8), [Mark(mask, WHITE)], thickness=1)
    changed = picture.any(axis=2)
    assert np.array_equal(changed, boundary(mask))
    assert changed.sum() == 2 * (20 + 28) - 4


def test_a_hole_is_outlined():
    mask = box_mask((5, 5, 40, 40)) & ~box_mask((15, 15, 25, 25))
    changed = draw_cells(np.zeros((SIZE, SIZE, 3), np.uint8), [Mark(mask, WHITE)], thickness=1).any(axis=2)
    assert changed[14, 20] and changed[5, 20] and not changed[10, 10] and not changed[20, 20]


def test_dropped_cells_are_dashed():
    mask = box_mask((10, 12, 50, 40))
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    whole = draw_cells(black, [Mark(mask, GREY)], thickness=1).any(axis=2)
    dashed = draw_cells(black, [Mark(mask, GREY, dashed=True)], thickness=1).any(axis=2)
    assert not (dashed & ~whole).any()
    assert 0.4 < dashed.sum() / whole.sum() < 0.6
    assert not black.any()  # the picture that is given stays as it is


def test_labels_hide_what_is_dark_and_keep_apart():
    busy = np.zeros((60, 60), np.float32)
    busy[:, :30] = 255
    left, _ = label_place(np.ones((60, 60), bool), (20, 10), busy)
    assert left >= 30
    pair = [Mark(box_mask((20, 20, 110, 44), (SIZE, 128)), WHITE, (Line(text),)) for text in ("first", "second")]
    one, both = (draw_cells(np.full((SIZE, 128, 3), 40, np.uint8), marks) for marks in (pair[:1], pair))
    first = (one == 40 * 35 // 100).all(axis=2)
    assert first.any() and (both[first] == one[first]).mean() > 0.9


def test_a_label_larger_than_the_picture_does_not_raise():
    mark = Mark(np.ones((8, 9), bool), WHITE, (Line("a long text over a small picture"),) * 3)
    assert draw_cells(np.zeros((8, 9, 3), np.uint8), [mark]).shape == (8, 9, 3)
    nothing = Mark(np.zeros((8, 9), bool), WHITE, (Line("1"),))
    assert not draw_cells(np.zeros((8, 9, 3), np.uint8), [nothing]).any()


def test_text_is_printable_and_fits():
    assert printable("é ü α\n→") == "e u ???"
    assert fit("short", 500, 0.4) == "short"
    cut_text = fit("Vesicles and punctate cytosolic patterns", 90, 0.4)
    assert cut_text.endswith("..") and text_size(cut_text, 0.4)[0] <= 90


def test_confidence_and_top_classes():
    assert [confidence(value) for value in (0, 0.004, 0.831, 0.999)] == ["0", "<.01", ".83", "1.0"]
    probs = np.array([0.1, 0.9, 0.2, 0.4, 0.5, 0.6])
    assert top_classes(probs) == [1, 5, 4]
    assert top_classes(np.array([0.02, 0.9, 0.0])) == [1]
    assert top_classes(np.zeros(3)) == []


def test_a_cell_says_what_is_true():
    names, mark = ("A", "B", "C"), Mark(np.ones((4, 4), bool), WHITE)
    probs = np.array([0.7, 0.1, 0.5])

    def texts(labels):
        return [line.text for line in cell_mark(mark, 7, names, probs, labels).lines]

    assert texts(None) == ["7", "A .70", "C .50"]
    assert texts(np.array([True, False, False])) == ["7", "A .70", "C .50"]
    assert texts(np.array([False, True, True]))[-1] == "true: B, C"
    assert texts(np.zeros(3, bool))[-1] == "no true cell"
    right, wrong = cell_mark(mark, 7, names, probs, np.array([True, False, False])).lines[1:]
    assert right.colour != wrong.colour


def test_grid_places_tiles_row_by_row():
    tiles = [tile(np.full((10, 12, 3), (40 * index, 0, 200), np.uint8), [Line("x")]) for index in (1, 2, 3)]
    sheet = grid(tiles, 2, [Line("title"), Line("more")])
    height, width = tiles[0].shape[:2]
    assert sheet.shape[0] > 2 * height and sheet.shape[1] >= 2 * width
    where = [np.argwhere((sheet == (40 * index, 0, 200)).all(axis=2)).min(axis=0) for index in (1, 2, 3)]
    assert where[0][0] == where[1][0] < where[2][0]
    assert where[0][1] == where[2][1] < where[1][1]
    assert grid([], 3, [Line("nothing")]).ndim == 3


# ---- what is true


def test_cells_are_matched_with_true_cells_by_mask():
    found = cells_table({1: (0, 0, 10, 10), 2: (40, 40, 60, 60), 3: (30, 0, 40, 10)}, ["a"])
    true = cells_table({5: (0, 0, 10, 8), 6: (40, 50, 60, 60)}, ["a"])
    partners, overlaps = judging.match_cells(found, true)
    assert partners[:2].tolist() == [0, 1]
    assert overlaps.tolist() == [0.8, 0.5, 0]
    partners, overlaps = judging.match_cells(found, true[:0])
    assert partners.tolist() == [-1] * 3 and not overlaps.any()


def test_misses_are_sorted_and_named(data):
    cells, probs = opinions.probabilities(data.work / "probs.csv", read_cells(data.work / "cells.csv"), hpa)
    truth = judging.read_truth(data.work / "truth.csv", cells, hpa)
    assert [np.flatnonzero(row).tolist() for row in truth.labels] == [[0], [16], [2]] * 2
    wrong = judging.wrong(cells, probs, truth)
    assert wrong.iloc[0][["Cell", "True", "Class", "Probability"]].tolist() == [1, 1, 7, 0.95]
    assert wrong["Probability"].is_monotonic_decreasing and len(wrong) == 6
    lost = judging.overlooked(cells, probs, truth)
    assert lost.iloc[0][["Cell", "True", "Class", "Probability"]].tolist() == [1, 1, 16, 0.1]
    rest = cells[cells["CellID"] != 1].reset_index(drop=True)
    fewer = judging.overlooked(rest, probs[[1, 2, 4, 5]], judging.read_truth(data.work / "truth.csv", rest, hpa))
    assert fewer["Cell"].tolist()[:2] == [-1, -1] and fewer["Probability"].tolist()[:3] == [0, 0, 0.1]


def test_a_submission_says_the_same_as_its_probabilities(data):
    cells = read_cells(data.work / "cells.csv")
    one, two = (
        read(data.work / name, cells, hpa)
        for read, name in ((opinions.probabilities, "probs.csv"), (opinions.submitted, "submission.csv"))
    )
    assert one[0].equals(two[0]) and np.allclose(one[1], two[1])


def test_best_scores_are_of_one_epoch():
    log = pd.DataFrame({"epoch": [1, 2], "AP a": [0.9, 0.5], "AP b": [0.1, 0.7], "AP c": [np.nan, np.nan]})
    assert best_scores(log).dropna().to_dict() == {"a": 0.5, "b": 0.7}
    assert best_scores(log[["epoch"]]).empty


# ---- class activation maps


class Planes(nn.Module):
    """The images as their own feature map, and as logits the mean of channel 1 and twice that of 2 less that of 0."""

    backbone = None

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.clone()

    def head(self, maps: torch.Tensor) -> torch.Tensor:
        means = maps.mean((2, 3))
        return torch.stack([means[:, 1], 2 * means[:, 2] - means[:, 0]], dim=1)


def test_grad_cam_weighs_the_map_by_the_gradients():
    images = torch.from_numpy(rng(5).random((3, 3, 4, 6))).float()
    first, second = (grad_cam(Planes(), images, index) for index in (0, 1))
    assert torch.allclose(first, images[:, 1] / images[:, 1].amax((1, 2), keepdim=True))
    own = (2 * images[:, 2] - images[:, 0]).clamp(min=0)
    assert torch.allclose(second, own / own.amax((1, 2), keepdim=True), atol=1e-6)
    assert not grad_cam(Planes(), -images, 0).any()
    with pytest.raises(UserError, match="no feature map of rows and columns"):
        grad_cam(Planes(), images[..., :1], 0)


def test_heat_colours_where_it_is_hot():
    grey = np.full((8, 8, 3), 50, np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[:4] = 1
    drawn = heated(grey, heat)
    assert (drawn[4:] == 50).all() and (drawn[:4, :, 0] > 200).all()


def save_model(path: Path, cell: str) -> Path:
    names = {"arch": "test_resnet", "num_classes": 19, "in_channels": 4, "crop_size": 32, "img_size": 40, "loss": "BCE",
             "cell": cell}  # fmt: skip
    net = build("test_resnet", 19, 4, 32)
    model = Classifier(net, build_loss("BCE", hpa.CLASS_WEIGHTS), hpa.MEAN, hpa.STD)
    save({"model": model.state_dict(), "settings": names, "epoch": 1}, path)
    return path


def test_contact_sheets_with_maps(data):
    own = ["--probabilities", "probs.csv", "--size", "120", "--limit", "2"]
    path = save_model(data.work / "model.pth", "cell")
    assert not visualize.main(flags(data, "contact_sheet", *own, "--checkpoint", str(path)))
    wide = {file.name: read_png(file).shape[1] for file in data.out.iterdir()}
    assert not visualize.main(flags(data, "contact_sheet", *own))
    assert min(wide.values()) == 2 * (3 * 120 + 6) + 3 * 8  # a long title may need more
    assert min(read_png(file).shape[1] for file in data.out.iterdir()) == 2 * (2 * 120 + 6) + 3 * 8


def test_maps_need_a_cell_model(data):
    for path, message in (
        (save_model(data.work / "image.pth", "image"), "was trained on whole images"),
        (data.work / "cells.csv", "--checkpoint .*cells.csv"),
        (data.work / "none.pth", "does not exist"),
    ):
        argv = flags(data, "contact_sheet", "--probabilities", "probs.csv")
        with pytest.raises(UserError, match=message):
            visualize.main([*argv, "--checkpoint", str(path)])


# ---- the script


@pytest.mark.parametrize("opinion", [(), ("--probabilities", "probs.csv"), ("--submission", "submission.csv")])
@pytest.mark.parametrize("truth", [(), ("--truth", "truth.csv")])
def test_overlays(data, opinion, truth):
    assert not visualize.main(flags(data, "overlays", *opinion, *truth, "--size", "200"))
    drawn = {}
    for name in data.names:
        picture = read_png(data.out / f"overlay_{name}.png")
        assert picture.shape[0] >= 200 and picture.shape[1] == 400
        drawn[name] = picture
    if opinion or truth:  # which the picture shows
        shutil.rmtree(data.out)
        assert not visualize.main(flags(data, "overlays", "--size", "200"))
        plain = {name: read_png(data.out / f"overlay_{name}.png") for name in data.names}
        assert any(plain[name].shape != one.shape or (plain[name] != one).any() for name, one in drawn.items())


def test_overlays_show_dropped_cells_and_the_chosen_image_only(data):
    assert not visualize.main(flags(data, "overlays", "--images", "one", "--size", "64"))
    assert [path.name for path in data.out.iterdir()] == ["overlay_one.png"]
    whole = read_png(data.out / "overlay_one.png")[:SIZE, :SIZE].astype(int)
    cells = pd.read_csv(data.work / "cells.csv")
    write_table(cells[cells["CellID"] != DROPPED], data.work / "cells.csv")
    assert not visualize.main(flags(data, "overlays", "--images", "one", "--size", "64"))
    without = read_png(data.out / "overlay_one.png")[:SIZE, :SIZE].astype(int)
    ys, xs = np.nonzero((whole != without).any(axis=2))
    assert len(xs) and xs.min() >= 30 and ys.min() >= 30


def test_an_image_that_cannot_be_read_is_named_and_the_rest_is_drawn(data, capsys):
    (data.root / "one_blue.png").unlink()
    assert visualize.main(flags(data, "overlays", "--size", "64")) == 1
    assert "one_blue.png is missing" in capsys.readouterr().out
    assert [path.name for path in data.out.iterdir()] == [f"overlay_{data.names[1]}.png"]


@pytest.mark.parametrize("truth", [(), ("--truth", "truth.csv")])
def test_contact_sheets(data, truth):
    argv = flags(data, "contact_sheet", "--probabilities", "probs.csv", *truth, "--size", "40", "--limit", "4")
    assert not visualize.main(argv)
    names = sorted(path.name for path in data.out.iterdir())
    assert len(names) == 19 and names[0] == "sheet_00_nucleoplasm.png" and names[17] == "sheet_17_vesicles.png"
    green = (read_png(data.out / names[0]) == RIGHT).all(axis=2).sum()
    assert (green > 400) == bool(truth)


def test_misses(data):
    assert not visualize.main(flags(data, "misses", "--probabilities", "probs.csv", "--size", "60"))
    table = pd.read_csv(data.out / "misses.csv")
    first = table.iloc[0]
    assert (first["Kind"], first["ImageID"], first["CellID"], first["TrueCellID"]) == ("wrong", "one", 2, 2)
    assert (first["Class"], first["Probability"], first["Label"]) == ("7:Golgi apparatus", 0.95, 16)
    assert table["Kind"].value_counts().to_dict() == {"wrong": 6, "overlooked": 6}
    assert {path.name for path in data.out.iterdir()} == {"misses.csv", "misses_wrong.png", "misses_overlooked.png"}


def test_misses_against_the_labels_of_images(data):
    write_table(pd.DataFrame({"ID": data.names, "Label": ["0|2", "16"]}), data.work / "truth.csv")
    assert not visualize.main(flags(data, "misses", "--submission", "submission.csv", "--size", "60"))
    assert set(pd.read_csv(data.out / "misses.csv")["Kind"]) == {"wrong"}
    assert not (data.out / "misses_overlooked.png").exists()


def test_probabilities_of_images_hold_for_all_cells(data):
    write_table(probs_of([("one", 0)], {("one", 0): {5: 0.9}}), data.work / "probs.csv")
    cells, probs = opinions.probabilities(data.work / "probs.csv", read_cells(data.work / "cells.csv"), hpa)
    assert cells["ImageID"].tolist() == ["one"] * 3 and (probs[:, 5] == 0.9).all()


def test_curves(data):
    log = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "valid_loss": [1.1, 0.7], "pr_auc": [0.2, 0.4],
                        "AP x": [0.1, 0.4], "AP y": [0.3, 0.4]})  # fmt: skip
    for name in ("a", "b"):
        write_table(log, data.work / name / "fold0" / "log.csv")
    folders = [str(data.work / name / "fold0") for name in ("a", "b")]
    assert not visualize.main(["curves", *folders, "--out_path", str(data.out)])
    assert read_png(data.out / "curves.png").shape[1] == 1500
    assert run_names([Path("/x/Cell_BCE/fold0/log.csv")]) == ["Cell_BCE/fold0"]
    with pytest.raises(UserError, match="--names has 1 names for 2 logs"):
        visualize.main(["curves", *folders, "--names", "a", "--out_path", str(data.out)])
    with pytest.raises(UserError, match="two logs are called a"):
        visualize.main(["curves", *folders, "--names", "a", "a", "--out_path", str(data.out)])
    with pytest.raises(UserError, match="does not exist"):
        visualize.main(["curves", str(data.work / "none"), "--out_path", str(data.out)])
    with pytest.raises(UserError, match="--score valid_loss: losses are drawn anyway"):
        visualize.main(["curves", *folders, "--score", "valid_loss", "--out_path", str(data.out)])
    write_table(log[:0], data.work / "a" / "fold0" / "log.csv")
    with pytest.raises(UserError, match="log.csv: there is no epoch"):
        visualize.main(["curves", *folders, "--out_path", str(data.out)])


# ---- bad input


@pytest.mark.parametrize(
    ("mode", "more", "message"),
    [
        ("overlays", ("--images", "nine"), "--images nine: .* has no such ID"),
        ("overlays", ("--probabilities", "probs.csv", "--submission", "submission.csv"), "not both"),
        ("overlays", ("--probabilities", "none.csv"), "none.csv"),
        ("overlays", ("--competition", "hpb"), "--competition hpb is not known"),
        ("overlays", ("--truth", "none.csv"), "--truth does not exist"),
        ("contact_sheet", (), "contact_sheet needs --probabilities or --submission"),
        ("contact_sheet", ("--probabilities", "probs.csv", "--crop_dir", "nowhere"), "--crop_dir does not exist"),
        ("misses", (), "misses needs --probabilities or --submission"),
        ("overlays", ("--beside",), "--beside is for found cells and --truth of competitions whose cells have labels"),
        ("overlays", ("--score_threshold", "0.5"), "--score_threshold: .*cells.csv has no column score"),
    ],
)
def test_bad_flags(data, mode, more, message):
    with pytest.raises(UserError, match=message):
        visualize.main(flags(data, mode, *more))
    assert not data.out.exists()


@pytest.mark.parametrize("argv", [[], ["paint"], ["overlays", "--limit", "0"], ["contact_sheet", "--size", "-3"]])
def test_bad_usage_is_exit_code_2(argv):
    with pytest.raises(SystemExit) as error:
        visualize.main(argv)
    assert error.value.code == 2


def test_help_shows_the_modes(capsys):
    with pytest.raises(SystemExit) as done:
        visualize.main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert all(mode in text for mode in visualize.MODES)


def test_overlays_of_images_that_the_tables_lack(data):
    table = pd.read_csv(data.work / "probs.csv")
    write_table(table[table["ImageID"] == "one"], data.work / "probs.csv")
    with pytest.raises(UserError, match="probs.csv lacks the image zwei ü; --images names others"):
        visualize.main(flags(data, "overlays", "--probabilities", "probs.csv"))
    assert not visualize.main(flags(data, "overlays", "--probabilities", "probs.csv", "--images", "one"))
    sample = pd.read_csv(data.work / "sample_submission.csv").assign(ID=["x", "y"])
    write_table(sample, data.work / "sample_submission.csv")
    with pytest.raises(UserError, match="cells.csv has no cell of the images x, y; --metadata of its images is right"):
        visualize.main(flags(data, "overlays"))


@pytest.mark.parametrize("mode", ["overlays", "misses"])
def test_truth_of_images_of_another_size(data, mode):
    write_table(pd.read_csv(data.work / "truth.csv").assign(ImageWidth=2 * SIZE), data.work / "truth.csv")
    more = ("--probabilities", "probs.csv", *(("--truth", "truth.csv") if mode == "overlays" else ()))
    with pytest.raises(UserError, match=f"--truth: image one has {2 * SIZE} x {SIZE} pixels, but {SIZE} x {SIZE} in"):
        visualize.main(flags(data, mode, *more))
    assert not data.out.exists()


def test_images_without_any_find_are_said(data, capsys):
    cells = pd.read_csv(data.work / "cells.csv")
    write_table(cells[cells["ImageID"] == "one"], data.work / "cells.csv")
    assert not visualize.main(flags(data, "misses", "--probabilities", "probs.csv", "--size", "60"))
    assert "3 true cells of 1 images without any find are not counted" in capsys.readouterr().out


def test_misses_and_sheets_without_what_cannot_be_read(data, capsys):
    (data.root / "one_blue.png").unlink()
    assert visualize.main(flags(data, "misses", "--probabilities", "probs.csv", "--size", "60")) == 1
    assert "not drawn: " in (said := capsys.readouterr().out) and "one_blue.png is missing" in said
    assert len(list(data.out.iterdir())) == 3
    (data.work / "crops" / "one.zip").write_bytes(b"no zip")
    assert visualize.main(flags(data, "contact_sheet", "--probabilities", "probs.csv", "--size", "40")) == 1
    assert "not shown: " in (said := capsys.readouterr().out) and "one.zip is damaged" in said
    assert len(list(data.out.glob("sheet_*.png"))) == 19


def test_tables_that_do_not_belong_together(data):
    table = pd.read_csv(data.work / "probs.csv")
    write_table(table[1:], data.work / "probs.csv")
    with pytest.raises(UserError, match="has no row for one, 1"):
        visualize.main(flags(data, "contact_sheet", "--probabilities", "probs.csv"))
    write_table(table.assign(ImageID="other", CellID=range(1, 7)), data.work / "probs.csv")
    with pytest.raises(UserError, match="holds no image of"):
        visualize.main(flags(data, "contact_sheet", "--probabilities", "probs.csv"))


def test_a_foreign_submission_and_a_partial_truth(data):
    cells = pd.read_csv(data.work / "cells.csv")
    cells.loc[cells["CellID"] == 2, "PredictionString"] = encode_mask(box_mask((0, 0, 5, 5)))
    write_table(cells, data.work / "cells.csv")
    with pytest.raises(UserError, match="has a mask that is not in the cells table"):
        visualize.main(flags(data, "contact_sheet", "--submission", "submission.csv"))
    truth = pd.read_csv(data.work / "truth.csv")
    write_table(truth[truth["ImageID"] == "one"], data.work / "truth.csv")
    with pytest.raises(UserError, match="has no row for the image zwei"):
        visualize.main(flags(data, "overlays", "--truth", "truth.csv"))
    write_table(truth.drop(columns="x1"), data.work / "truth.csv")
    with pytest.raises(UserError, match="lacks the column x1"):
        visualize.main(flags(data, "overlays", "--truth", "truth.csv"))


def test_an_image_of_another_size_than_its_cells(data):
    cells = pd.read_csv(data.work / "cells.csv").assign(ImageWidth=SIZE + 1)
    write_table(cells, data.work / "cells.csv")
    with pytest.raises(UserError, match="one has 64 x 64 pixels, but 65 x 64 in the cells table"):
        visualize.main(flags(data, "overlays"))


def test_a_damaged_mask_is_named_with_its_cell(data):
    cells = pd.read_csv(data.work / "cells.csv")
    cells.loc[1, "PredictionString"] = "AAAA"
    write_table(cells, data.work / "cells.csv")
    with pytest.raises(UserError, match="cell 2 of one: mask text AAAA is damaged"):
        visualize.main(flags(data, "overlays"))


def test_an_id_that_is_no_file_name(data):
    sample = pd.read_csv(data.work / "sample_submission.csv")
    sample.loc[0, "ID"] = "../one"
    write_table(sample, data.work / "sample_submission.csv")
    with pytest.raises(UserError, match="cannot be a file name"):
        visualize.main(flags(data, "overlays"))


def test_overlay_of_a_real_image(real_data, tmp_path):
    name = "a7faf0b4-bb99-11e8-b2b9-ac1f6b6435d0"
    labels = cv2.imread(str(real_data / "hpa" / "segmentator_masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    masks = encode_label_image(labels)
    cells = pd.DataFrame(boxes(labels), index=["x1", "y1", "x2", "y2"]).T.assign(
        Image=[f"{name}+{cell}" for cell in masks], ImageID=name, CellID=list(masks), PredictionString=masks.values(),
        ImageWidth=labels.shape[1], ImageHeight=labels.shape[0],
    )  # fmt: skip
    write_table(cells, tmp_path / "cells.csv")
    hpa_data = real_data / "hpa"
    assert not visualize.main([
        "overlays", "--metadata", str(hpa_data / "train.csv"), "--root_dir", str(hpa_data / "train"),
        "--cell_meta_csv_path", str(tmp_path / "cells.csv"), "--out_path", str(tmp_path), "--images", name,
        "--truth", str(hpa_data / "train.csv"),
    ])  # fmt: skip
    picture = read_png(tmp_path / f"overlay_{name}.png")
    assert picture.shape == (1024, 1331, 3) and picture[:, :1024].std() > 20
