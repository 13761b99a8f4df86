"""Pictures of competitions whose cells have one class each: boxes and masks, their truth, analysis of tables."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_blobs import make_small_blobs
from small_scenes import CLASSES, make_small_scenes

import competitions
import visualize
from cells.boxes import iou as box_iou
from cells.masks import encode_mask
from cells.store import write_image_png, write_shard
from cells.table import BOX, read_cells, write_table
from common.errors import UserError
from common.seeds import rng
from engine.checkpoints import save
from losses import build_loss
from models import build, wrapper_of
from pictures.analysis import class_table, image_sizes
from pictures.composite import brighten
from pictures.curves import best_scores, choose_score
from pictures.drawing import DARK, DASH, RIGHT, WHITE, WRONG, Mark, box_outline, draw_cells
from pictures.judging import misses_of, pair_cells, read_truth
from pictures.marks import count_lines, found_mark, true_mark, with_room
from pictures.opinions import finder_opinion
from pictures.places import View, around, place, place_box

NAMES = tuple(CLASSES.split(","))


@pytest.fixture
def data(tmp_path: Path) -> SimpleNamespace:
    """Four small scenes; of their cells as found one has a wrong class, one was overlooked, and one is none."""
    root = make_small_scenes(tmp_path, images=4)
    truth = competitions.get("cytologia", CLASSES).read_cells(root / "train.csv", root=root / "images")
    found = truth.assign(score=0.9, Label=truth["Label"].astype(int)).drop(index=3).reset_index(drop=True)
    found[["x1", "x2"]] += 0.5
    found.loc[0, "Label"] = (found.loc[0, "Label"] + 1) % 3
    false = found.iloc[[0]].assign(Image="0.png+77", CellID=77, x1=0.0, y1=0.0, x2=6.5, y2=7.0, score=0.7)
    write_table(pd.concat([found, false], ignore_index=True), tmp_path / "cells.csv")
    for name, own in truth.groupby("ImageID"):
        crops = {cell: rng(1, cell).integers(0, 255, (20, 24, 3), dtype=np.uint8) for cell in own["CellID"]}
        write_shard(tmp_path / "crops" / f"{name}.zip", crops | {77: crops[1]})
    return SimpleNamespace(work=tmp_path, truth=truth, found=found, out=tmp_path / "pics")


def flags(data: SimpleNamespace, mode: str, *more: str, cells: bool = True) -> list[str]:
    argv = [mode, "--competition", "cytologia", "--classes", CLASSES, "--root_dir", str(data.work / "images")]
    argv += ["--cell_meta_csv_path", str(data.work / "cells.csv")] if cells else []
    argv += ["--crop_dir", str(data.work / "crops")] if mode == "contact_sheet" else []
    more = [str(data.work / word) if word == "train.csv" else word for word in more]
    return [*argv, *more, "--out_path", str(data.out)]


def read_png(path: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


# ---- where cells lie


def test_a_box_is_outlined_on_its_outermost_pixels():
    mark = place_box((10, 20, 30, 40), View(0, 0, 50, 60, (60, 50)))
    drawn = draw_cells(np.zeros((60, 50, 3), np.uint8), [mark], thickness=1).any(axis=2)
    expected = np.zeros((60, 50), bool)
    expected[20:40, 10:30] = True
    expected[21:39, 11:29] = False
    assert np.array_equal(drawn, expected)


def test_a_box_beyond_the_picture_has_no_edge_there():
    mark = place_box((-20.5, 5, 10, 500), View(0, 0, 50, 60, (60, 50)))
    drawn = draw_cells(np.zeros((60, 50, 3), np.uint8), [mark], thickness=1).any(axis=2)
    assert drawn[5, :10].all() and drawn[5:, 9].all()
    assert not drawn[10:, 0].any() and not drawn[-1, :9].any()
    assert mark.mask.shape == (55, 10) and mark.at == (0, 5)
    assert not place_box((90, 90, 99, 99), View(0, 0, 50, 60, (60, 50))).mask.size


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e7, 1e7), min_size=4, max_size=4))
def test_boxes_of_any_size_are_drawn_near_the_picture(box):
    points = box_outline(box, (40, 30))
    assert points.min() >= -DASH and (points.max(axis=0) <= [30 + DASH, 40 + DASH]).all()
    mark = Mark(np.ones((1, 1), bool), WHITE, box=tuple(box))
    assert draw_cells(np.zeros((40, 30, 3), np.uint8), [mark]).shape == (40, 30, 3)


def test_views_zoom_and_shift_boxes():
    view = around(np.array([[10, 20, 30, 40], [10, 20, 50, 40]]), 0.25, 120)
    assert view == (0, 0, 60, 60, (120, 120))
    assert place_box((10, 20, 50, 40), view).box == (20, 40, 100, 80)
    assert place_box((10, 20, 50, 40), view._replace(left=-5, top=10)).box == (30, 20, 110, 60)


def row(mask: np.ndarray, **more) -> pd.DataFrame:
    height, width = mask.shape
    return next(pd.DataFrame([{"ImageID": "a", "ImageHeight": height, "ImageWidth": width,
                               "PredictionString": encode_mask(mask), **more}]).itertuples())  # fmt: skip


def test_a_mask_is_placed_in_its_view():
    mask = np.zeros((40, 50), bool)
    mask[10:20, 30:45] = True
    mark = place(row(mask), (40, 50), View(0, 0, 50, 40, (80, 100)))
    assert mark.at == (60, 20) and mark.mask.shape == (20, 30) and mark.mask.all()
    mark = place(row(mask), (40, 50), View(40, 15, 20, 20, (20, 20)))  # beyond the image's right side
    assert mark.at == (0, 0) and mark.mask.shape == (5, 5)
    with pytest.raises(UserError, match="a has 51 x 40 pixels, but 50 x 40 in the cells table"):
        place(row(mask), (40, 51), View(0, 0, 51, 40, (40, 51)))


def test_light_pictures_give_lines_a_rim_and_dashes_show_what_is_below():
    mark = place_box((10, 10, 50, 50), View(0, 0, 60, 60, (60, 60)))._replace(colour=WHITE)
    light = draw_cells(np.full((60, 60, 3), 250, np.uint8), [mark], thickness=1)
    assert (light[10, 12:40] == WHITE).all() and light[8:10, 20].min() < 100 and light[11:13, 20].min() < 100
    over = mark._replace(dashed=True, colour=RIGHT)
    both = draw_cells(np.full((60, 60, 3), 250, np.uint8), [mark, over], thickness=1)
    kinds = [tuple(pixel) for pixel in both[10, 12:48].tolist()]
    assert kinds.count(WHITE) > 8 and kinds.count(RIGHT) > 8 and set(kinds) == {WHITE, RIGHT, DARK}


# ---- what is written


def test_a_find_says_its_class_and_whether_it_is_true():
    mark, probs = Mark(np.ones((40, 90), bool), WHITE), np.array([0.1, 0.6, 0.0])

    def lines(*own):
        return [(line.text, line.colour) for line in found_mark(mark, 4, NAMES, *own).lines]

    assert lines(probs, 0.9, None) == [("White .60", WHITE)]
    assert lines(probs, 0.9, np.array([0, 1, 0], bool)) == [("White .60", RIGHT)]
    assert lines(probs, 0.9, np.array([0, 0, 1], bool)) == [("White .60", WRONG), ("true: Blue", WHITE)]
    assert lines(probs, 0.9, np.zeros(3, bool)) == [("White .60", WRONG)]
    assert lines(None, 0.42, None) == [(".42", WHITE)]
    assert lines(None, 0.42, np.array([0, 0, 1], bool)) == [(".42", RIGHT)]
    assert lines(np.array([0, 1.0, 0]), 1.0, None) == [("White", WHITE)]
    assert found_mark(mark, 4, ("cell",), np.ones(1), 1.0, None).lines == ()


def test_true_cells_that_were_missed_say_so():
    mark, labels = Mark(np.ones((40, 90), bool), WHITE), np.array([0, 1, 0], bool)
    assert true_mark(mark, NAMES, labels, True, True).lines == () and true_mark(mark, NAMES, labels, True, True).dashed
    assert [line.text for line in true_mark(mark, NAMES, labels, False, False).lines] == ["missed White"]
    assert [line.text for line in true_mark(mark, ("cell",), labels[1:2], False, False).lines] == ["missed"]


def test_labels_that_hide_their_cell_are_left_out():
    large, small = (
        found_mark(Mark(np.ones(shape, bool), WHITE), 1, NAMES, np.array([0.5, 0, 0]), 1, None)
        for shape in ((80, 200), (12, 20))
    )
    assert [len(mark.lines) for mark in with_room([large, small], 0.4)] == [1, 0]


def test_counts_are_the_most_frequent_first():
    lines = count_lines("a", 4, np.array([1, 3, 0]), np.array([4, 0, 0]), NAMES)
    assert [line.text for line in lines] == ["a", "found 4 / true 4", "", "  1 /  4  Red", "  3 /  0  White", ""]
    assert [line.text for line in count_lines("a", 1, np.array([0, 1, 0]), None, NAMES)][3] == "  1  White"


def test_colours_are_brightened_only_where_all_is_dark():
    dark = np.zeros((10, 10, 3), np.uint16)
    dark[..., 0] = np.linspace(0, 13107, 10)  # a fifth of the full scale
    assert brighten(dark)[..., 0].max() >= 254 and not brighten(dark)[..., 1:].any()
    stained = rng(2).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    assert np.abs(brighten(stained).astype(int) - stained).max() <= 2


# ---- what is true


def test_each_true_cell_is_taken_once_by_the_most_confident():
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [0, 5, 10, 15], [50, 50, 60, 60]]
    cells = pd.DataFrame(boxes, columns=BOX).assign(ImageID=["a", "a", "a", "b"], PredictionString="")
    truth = cells.iloc[[0]].reset_index(drop=True)
    partners, overlaps = pair_cells(cells, np.array([0.5, 0.9, 0.1, 1]), truth, 0.5)
    assert partners.tolist() == [-1, 0, -1, -1]
    np.testing.assert_allclose(overlaps, [1, 90 / 110, 50 / 150, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_pairs_are_those_of_a_greedy_search(seed):
    generator = rng(seed)
    corners = generator.integers(0, 30, (14, 2))
    boxes = np.hstack([corners, corners + generator.integers(5, 15, (14, 2))])
    table = pd.DataFrame(boxes, columns=BOX).assign(ImageID="a", PredictionString="")
    cells, truth, confidence = table.iloc[:8], table.iloc[8:].reset_index(drop=True), generator.random(8)
    free, expected = set(range(6)), [-1] * 8
    for own in sorted(range(8), key=lambda own: -confidence[own]):
        overlap = {other: box_iou(boxes[own], boxes[8 + other]) for other in free}
        best = max(overlap, key=overlap.get, default=None)
        if best is not None and overlap[best] >= 0.3:
            expected[own] = best
            free.remove(best)
    assert pair_cells(cells, confidence, truth, 0.3)[0].tolist() == expected


def test_what_is_wrong_by_kind(data):
    competition = competitions.get("cytologia", CLASSES)
    cells = read_cells(data.work / "cells.csv")
    probs = finder_opinion(cells, competition, "cells.csv")
    assert probs.shape == (len(cells), 3) and probs.max() == 0.9
    truth = read_truth(data.work / "train.csv", cells, competition, None, probs)
    tables = misses_of(cells, probs, truth, single=True)
    assert {kind: len(table) for kind, table in tables.items()} == {"wrong": 1, "false": 1, "overlooked": 1}
    assert tables["wrong"].iloc[0]["Cell"] == 0
    assert cells["CellID"].iloc[int(tables["false"].iloc[0]["Cell"])] == 77
    assert tables["overlooked"].iloc[0]["True"] == 3


def test_a_finder_of_one_kind_says_no_class(data):
    competition = competitions.get("cytologia", CLASSES)
    cells = read_cells(data.work / "cells.csv")
    assert finder_opinion(cells.drop(columns="Label"), competition, "x") is None
    assert finder_opinion(cells.assign(Label=""), competition, "x") is None
    assert finder_opinion(cells.assign(Label=0), competition, "x")[:, 0].max() == 0.9  # all of the first class
    with pytest.raises(UserError, match=r"x: Label 5 of 0.png\+1 is no class index 0 to 2; --classes"):
        finder_opinion(cells.assign(Label=5), competition, "x")


# ---- the script


@pytest.mark.parametrize("more", [(), ("--truth", "train.csv"), ("--truth", "train.csv", "--beside")])
def test_overlays_of_boxes(data, more):
    assert not visualize.main(flags(data, "overlays", *more, "--size", "200", "--limit", "3"))
    shapes = {path.name: read_png(path).shape for path in data.out.iterdir()}
    assert sorted(shapes) == [f"overlay_{number}.png.png" for number in range(3)]
    assert {shape[1] for shape in shapes.values()} == {608 if "--beside" in more else 400}


def test_overlays_of_the_truth_alone_and_of_chosen_images(data):
    argv = flags(data, "overlays", "--truth", "train.csv", "--size", "96", "--images", "2.png", "1.png", cells=False)
    assert not visualize.main(argv)
    assert sorted(path.name for path in data.out.iterdir()) == ["overlay_1.png.png", "overlay_2.png.png"]
    assert not visualize.main(flags(data, "overlays", "--metadata", str(data.work / "images"), "--size", "64"))
    assert len(list(data.out.iterdir())) == 4


def test_found_cells_without_classes_show_their_scores(data):
    write_table(read_cells(data.work / "cells.csv").assign(Label=""), data.work / "cells.csv")
    assert not visualize.main(flags(data, "overlays", "--truth", "train.csv", "--size", "128", "--limit", "1"))
    for mode in ("misses", "contact_sheet"):
        with pytest.raises(UserError, match=f"{mode} needs --probabilities or --submission"):
            visualize.main(flags(data, mode, "--truth", "train.csv"))


def test_a_score_that_is_no_number(data):
    cells = read_cells(data.work / "cells.csv").astype({"score": str})
    cells.loc[1, "score"] = "high"
    write_table(cells, data.work / "cells.csv")
    with pytest.raises(UserError, match="the cells table row 3, column score: 'high' is not a finite number"):
        visualize.main(flags(data, "overlays"))


def test_misses_of_boxes(data):
    assert not visualize.main(flags(data, "misses", "--truth", "train.csv", "--size", "60"))
    table = pd.read_csv(data.out / "misses.csv").set_index("Kind")
    assert sorted(table.index) == ["false", "overlooked", "wrong"]
    assert (table.at["false", "CellID"], table.at["false", "TrueCellID"]) == (77, 0)
    assert table.at["overlooked", "CellID"] == 0 and table.at["wrong", "Probability"] == 0.9
    assert len(list(data.out.glob("misses_*.png"))) == 3


def test_probabilities_count_times_the_score(data):
    cells = read_cells(data.work / "cells.csv")
    probs = pd.DataFrame(0.1, cells.index, list(NAMES)).assign(Blue=0.8)
    write_table(pd.concat([cells[["ImageID", "CellID"]], probs], axis=1), data.work / "probs.csv")
    argv = flags(data, "misses", "--truth", "train.csv", "--probabilities", str(data.work / "probs.csv"))
    assert not visualize.main(argv)
    table = pd.read_csv(data.out / "misses.csv")
    assert np.allclose(table["Probability"][table["Kind"] == "false"], 0.7 * 0.8)
    assert set(table["Class"][table["Kind"] == "wrong"]) == {"Blue"}


def test_contact_sheets_of_colours(data):
    assert not visualize.main(flags(data, "contact_sheet", "--truth", "train.csv", "--size", "40", "--limit", "4"))
    assert sorted(path.name for path in data.out.iterdir()) == [
        "sheet_00_red.png", "sheet_01_white.png", "sheet_02_blue.png",
    ]  # fmt: skip


def model_file(path: Path, arch: str, more: dict | None = None) -> Path:
    names = {"arch": arch, "num_classes": 3, "in_channels": 3, "crop_size": 32, "cell": "cell", "pool": "attention",
             "loss": "BCE"}  # fmt: skip
    names |= more or {}
    kind = wrapper_of(arch)
    options = {"pool": "attention"} if arch.startswith(("bag_", "pooled_")) else {}
    net = build(arch, names["num_classes"], 3, 32)
    model = kind(net, build_loss("BCE", [1] * 3), (0.5,) * 3, (0.2,) * 3, **options)
    save({"model": model.state_dict(), "settings": names, "epoch": 1}, path)
    return path


@pytest.mark.parametrize("arch", ["bag_test_resnet", "class_test_resnet_cam", "test_resnet"])
def test_maps_of_other_networks(data, arch):
    path = model_file(data.work / "model.pth", arch)
    argv = flags(data, "contact_sheet", "--size", "40", "--limit", "1", "--checkpoint", str(path))
    assert not visualize.main(argv)


@pytest.mark.parametrize("arch", ["pooled_test_resnet", "class_test_resnet_cam", "test_resnet"])
def test_maps_of_whole_images(data, arch):
    path, folder = model_file(data.work / "model.pth", arch, {"cell": "image"}), data.work / "resized"
    folder.mkdir()
    for name in ("0.png", "1.png"):
        write_image_png(folder / f"{name}.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    argv = ["cams", "--competition", "cytologia", "--classes", CLASSES, "--checkpoint", str(path), "--img_dir",
            str(folder), "--out_path", str(data.out), "--size", "48", "--top", "2"]  # fmt: skip
    assert not visualize.main([*argv, "--truth", str(data.work / "train.csv")])
    assert sorted(path.name for path in data.out.iterdir()) == ["cams_0.png.png", "cams_1.png.png"]
    picture = cv2.imread(str(data.out / "cams_0.png.png"))
    assert picture.shape[1] >= 3 * 48  # the image and two maps
    with pytest.raises(UserError, match="has no row for 9"):
        visualize.main([*argv, "--images", "9", "--truth", str(data.work / "train.csv")])
    with pytest.raises(UserError, match="image does not exist"):
        visualize.main([*argv, "--images", "9"])
    cell = model_file(data.work / "cell.pth", "test_resnet")
    with pytest.raises(UserError, match="was trained on cells; image models are right"):
        visualize.main([*argv, "--checkpoint", str(cell)])


@pytest.mark.parametrize(
    ("arch", "more", "message"),
    [
        ("pooled_test_resnet", {"cell": "image"}, "was trained on whole images; cell models are right"),
        ("test_resnet", {"cell": "nucleus"}, "was trained on nuclei; cell models are right"),
        ("test_resnet", {"num_classes": 4}, "was trained with --num_classes 4; 3 is right here"),
        ("test_resnet", {"arch": "yolox_s"}, "is a yolox_s, which finds cells; a classifier of cells is right"),
    ],
)
def test_models_without_maps_of_cells_are_refused(data, arch, more, message):
    path = model_file(data.work / "model.pth", arch, more)
    with pytest.raises(UserError, match=message):
        visualize.main(flags(data, "contact_sheet", "--checkpoint", str(path)))


@pytest.mark.parametrize(
    ("mode", "more", "cells", "message"),
    [
        ("overlays", (), False, "overlays needs --cell_meta_csv_path"),
        ("overlays", ("--truth", "none.csv"), False, "--truth does not exist"),
        ("overlays", ("--images", "9.png"), True, "--images 9.png: .*cells.csv has no such ID"),
        ("overlays", ("--submission", "x.csv"), True, "--submission is for .* not cytologia"),
    ],
)
def test_bad_flags(data, mode, more, cells, message):
    with pytest.raises(UserError, match=message):
        visualize.main(flags(data, mode, *more, cells=cells))


def test_a_truth_that_does_not_know_an_image(data):
    table = pd.read_csv(data.work / "train.csv")
    write_table(table[table["NAME"] != "2.png"], data.work / "train.csv")
    with pytest.raises(UserError, match="train.csv does not know the image 2.png"):
        visualize.main(flags(data, "misses", "--truth", "train.csv"))


# ---- analysis


def test_a_class_table_by_hand():
    hot = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    cells = pd.DataFrame({"width": [10.0, 20, 30, 7], "height": 5.0, "area": [50.0, 100, 150, 35]})
    table = class_table(NAMES, hot, pd.Series(["a", "a", "b", "b"]), cells)
    assert table["Count"].tolist() == [3, 1, 0] and table["Share"].tolist() == [0.75, 0.25, 0]
    assert table["Imbalance"].fillna(-1).tolist() == [1, 3, -1] and table["Images"].tolist() == [2, 1, 0]
    assert table["width 50%"].fillna(-1).tolist() == [20, 7, -1] and table["area 95%"].iloc[0] == 145


def test_image_sizes_count_images_not_cells():
    cells = pd.DataFrame({"ImageID": list("aabbc"), "ImageWidth": [5, 5, 5, 5, 0], "ImageHeight": [4, 4, 4, 4, 0]})
    assert image_sizes(cells).to_numpy().tolist() == [[5, 4, 2]]


def test_analysis_of_boxes(data, capsys):
    argv = ["analysis", "--competition", "cytologia", "--classes", CLASSES, "--metadata", str(data.work / "train.csv")]
    for more in ([], ["--root_dir", str(data.work / "images")]):
        assert not visualize.main([*argv, *more, "--out_path", str(data.out)])
    text = capsys.readouterr().out
    assert f"4 images, {len(data.truth)} cells" in text
    assert "sizes of images: 4 of 96 x 96" in text and "give --root_dir" in text
    table = pd.read_csv(data.out / "analysis.csv")
    assert table["Class"].tolist() == list(NAMES) and table["Count"].sum() == len(data.truth)
    assert read_png(data.out / "analysis.png").shape[1] == 1500


def test_analysis_of_image_labels_and_of_no_labels(tmp_path, capsys):
    write_table(pd.DataFrame({"ID": ["a", "b"], "Label": ["0|16", "16"]}), tmp_path / "train.csv")
    argv = ["analysis", "--metadata", str(tmp_path / "train.csv"), "--out_path", str(tmp_path / "pics")]
    with pytest.raises(UserError, match="--root_dir is for competitions whose cells have labels, not hpa"):
        visualize.main([*argv, "--root_dir", str(tmp_path)])
    assert not visualize.main(argv)
    table = pd.read_csv(tmp_path / "pics" / "analysis.csv")
    assert table["Count"].iloc[[0, 16]].tolist() == [1, 2] and table["Count"].sum() == 3
    assert "2 images, 3 labels; an image has 1 / 1.5 / 2" in capsys.readouterr().out
    empty = pd.DataFrame({"NAME": ["a.png"], "x1": 0, "y1": 0, "x2": 0, "y2": 0, "class": ""})
    write_table(empty, tmp_path / "train.csv")
    with pytest.raises(UserError, match="has no label to analyse"):
        visualize.main([*argv, "--competition", "cytologia", "--classes", CLASSES])


# ---- masks


def test_pictures_of_instances(tmp_path):
    root = make_small_blobs(tmp_path, images=2)
    argv = ["--competition", "neurons", "--classes", "cell", "--out_path", str(tmp_path / "pics")]
    found = competitions.get("neurons", "cell").read_cells(root / "train.csv").assign(score=0.8).iloc[1:]
    write_table(found, tmp_path / "cells.csv")
    own = ["--root_dir", str(root / "images"), "--cell_meta_csv_path", str(tmp_path / "cells.csv"), "--size", "96"]
    own += ["--truth", str(root / "train.csv")]
    assert not visualize.main(["overlays", *argv, *own])
    assert len(list((tmp_path / "pics").glob("overlay_*.png"))) == 2
    assert not visualize.main(["misses", *argv, *own])
    table = pd.read_csv(tmp_path / "pics" / "misses.csv")
    assert table[["Kind", "ImageID", "TrueCellID"]].to_numpy().tolist() == [["overlooked", 0, 1]]


def test_pictures_of_class_maps(tmp_path):
    root = tmp_path / "fold1"
    root.mkdir()
    masks = np.zeros((2, 32, 40, 3), np.int32)  # the first image has no nuclei
    masks[1, 4:20, 4:20, 0], masks[1, 12:30, 24:38, 1] = 7, 2
    masks[..., 2] = ~masks[..., :2].any(axis=3)
    np.save(root / "masks.npy", masks)
    np.save(root / "images.npy", rng(4).integers(100, 255, (2, 32, 40, 3), dtype=np.uint8))
    argv = ["--competition", "pannuke", "--classes", "Dark,Light", "--out_path", str(tmp_path / "pics")]
    found = competitions.get("pannuke", "Dark,Light").read_cells(root).assign(score=0.8, Label=[1, 1])
    write_table(found, tmp_path / "cells.csv")
    own = ["--root_dir", str(root), "--cell_meta_csv_path", str(tmp_path / "cells.csv"), "--truth", str(root)]
    assert not visualize.main(["overlays", *argv, *own, "--metadata", str(root), "--beside", "--size", "64"])
    assert len(list((tmp_path / "pics").glob("overlay_*.png"))) == 2
    assert not visualize.main(["misses", *argv, *own, "--size", "64"])
    table = pd.read_csv(tmp_path / "pics" / "misses.csv")
    columns = ["Kind", "CellID", "TrueCellID", "Class", "Label"]
    assert table[columns].to_numpy().tolist() == [["wrong", 7, 7, "Light", 0]]
    assert not visualize.main(["analysis", *argv, "--metadata", str(root)])
    table = pd.read_csv(tmp_path / "pics" / "analysis.csv")
    assert table["Count"].tolist() == [1, 1] and table["area 50%"].tolist() == [256, 252]


# ---- curves


def test_the_score_of_curves():
    runs = {"a": pd.DataFrame({"epoch": [1, 2], "mAP": [0.3, 0.2], "AP x": [0.2, 0.9], "AP50": [0, 1]}),
            "b": pd.DataFrame({"epoch": [1], "pr_auc": [0.5]})}  # fmt: skip
    assert choose_score(runs, None) == "mAP" and choose_score(runs, "AP50") == "AP50"
    assert choose_score({"b": runs["b"][["epoch"]]}, None) is None
    assert best_scores(runs["a"], "mAP").to_dict() == {"x": 0.2} and best_scores(runs["a"]).to_dict() == {"x": 0.9}
    with pytest.raises(UserError, match="--score F2: no log has such a column; they have epoch, mAP"):
        choose_score(runs, "F2")


def test_curves_of_different_tasks(tmp_path, capsys):
    logs = {
        "detect": {"train_loss": [2.0, 1.0], "mAP": [0.1, 0.3], "AP50": [0.2, 0.6]},
        "segment": {"train_loss": [2.0, 1.0], "mPQ": [0.1, 0.3], "PQ Dark": [np.nan, 0.3]},
    }
    for name, columns in logs.items():
        write_table(pd.DataFrame({"epoch": [1, 2], **columns}), tmp_path / name / "fold0" / "log.csv")
    paths = [str(tmp_path / name / "fold0") for name in logs]
    assert not visualize.main(["curves", *paths, "--out_path", str(tmp_path)])
    assert "detect/fold0: mAP 0.3000 in epoch 2 of 2" in capsys.readouterr().out
    assert not visualize.main(["curves", *paths, "--score", "mPQ", "--out_path", str(tmp_path)])
    assert "segment/fold0: mPQ 0.3000 in epoch 2 of 2" in capsys.readouterr().out
