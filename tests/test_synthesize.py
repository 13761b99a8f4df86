"""Made-up data: files and formats, determinism, truth, and that each of the 19 patterns lies where it belongs."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synthesize
from cells.crops import to_uint8
from cells.masks import decode_mask, encode_mask
from cells.table import read_cells, read_table
from common.errors import UserError
from common.seeds import rng
from competitions.hpa import CHANNELS, CLASSES, read_image, read_labels
from synthesis.cells import Cell, add_organelles, mark_contacts, overlap, paste, soft
from synthesis.channels import Textures, draw_microtubules, draw_nucleus, draw_reticulum, nucleolus_map
from synthesis.filaments import Growth, dots, grow, somewhere, splat
from synthesis.hpa import Request, draw_cells, draw_image, image_labels, truth_rows
from synthesis.labels import COUNTS, HOW_MANY, NEGATIVE, SPINDLE, able_cells, cell_classes, image_classes
from synthesis.patterns import IN_DIVISION, PATTERNS
from synthesis.settings import CELL_LINES, SETTINGS

SMALL = ["--size", "200x136", "--train", "3", "--test", "2", "--seed", "4"]


def make(folder: Path, *flags: str) -> Path:
    assert not synthesize.main(["--out_dir", str(folder), *SMALL, *flags])
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made") / "one")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- files


def test_tables_and_images_have_the_competitions_form(small):
    train = read_labels(small / "train.csv")
    submission = read_table(
        small / "sample_submission.csv", {"ID": str, "ImageWidth": int, "ImageHeight": int, "PredictionString": str}
    )
    assert len(train) == 3 and len(submission) == 2
    assert set(submission["ImageWidth"]) == {200} and set(submission["ImageHeight"]) == {136}
    zero, one, mask = submission["PredictionString"][0].split()
    assert (zero, one) == ("0", "1") and not decode_mask(mask, 136, 200).any()
    for split, names, kind in (("train", train["ID"], np.uint8), ("test", submission["ID"], np.uint16)):
        assert sorted(path.name for path in (small / split).iterdir()) == sorted(
            f"{name}_{channel}.png" for name in names for channel in CHANNELS
        )
        for name in names:
            image = read_image(small / split, name)
            assert image.shape == (136, 200, 4) and image.dtype == kind
            assert kind == np.uint8 or (image == 257 * to_uint8(image).astype(np.uint16)).all()


def test_the_placeholder_of_2048_pixels_is_the_competitions():
    assert encode_mask(np.zeros((2048, 2048), bool)) == "eNoLCAgIMAEABJkBdQ=="


@pytest.mark.parametrize(("table", "split"), [("truth.csv", "test"), ("train_truth.csv", "train")])
def test_truth_masks_are_disjoint_and_fill_their_boxes(small, table, split):
    truth = read_cells(small / table).assign(Label=read_table(small / table, {"Label": str})["Label"])
    assert (truth["Image"] == truth["ImageID"] + "+" + truth["CellID"].astype(str)).all()
    for name, rows in truth.groupby("ImageID"):
        taken = np.zeros((136, 200), int)
        blue = to_uint8(read_image(small / split, name))[..., 2]
        assert rows["CellID"].tolist() == list(range(1, len(rows) + 1))
        for row in rows.itertuples():
            mask = decode_mask(row.PredictionString, 136, 200)
            ys, xs = np.nonzero(mask)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (row.x1, row.y1, row.x2, row.y2)
            classes = [int(part) for part in row.Label.split("|")]
            assert classes == sorted(set(classes)) and (classes == [NEGATIVE] or NEGATIVE not in classes)
            assert blue[mask].max() > blue[~mask].min()
            taken += mask
        assert taken.max() == 1


def test_an_images_label_is_the_union_of_its_cells(small):
    train = read_labels(small / "train.csv").set_index("ID")["Label"]
    truth = read_table(small / "train_truth.csv", {"ImageID": str, "Label": str})
    for name, rows in truth.groupby("ImageID"):
        union = {part for text in rows["Label"] for part in text.split("|")}
        assert set(train[name].split("|")) == (union - {"18"} or {"18"})


def test_negative_is_an_images_label_only_when_alone():
    names = ["a", "b", "c"]
    truth = truth_rows(draw_image(Request(1, 128, 128), "train", 0)).iloc[[0, 0, 0]]
    truth = truth.assign(ImageID=["a", "a", "b"], Label=["0|16", "18", "18"])
    assert image_labels(truth, names).to_dict("list") == {"ID": names, "Label": ["0|16", "18", "18"]}


@pytest.mark.slow
def test_jobs_do_not_change_a_byte(small, tmp_path):
    assert files(make(tmp_path / "two", "--jobs", "2")) == files(small)


def test_other_seeds_and_splits_differ(small):
    request = Request(4, 136, 136)
    first = draw_image(request, "train", 0)
    assert (first.pixels == draw_image(request, "train", 0).pixels).all()
    for other in (draw_image(Request(5, 136, 136), "train", 0), draw_image(request, "test", 0)):
        assert other.name != first.name and (other.pixels != first.pixels).any()


def test_running_again_draws_only_what_is_missing(small, tmp_path, monkeypatch):
    folder = make(tmp_path / "again")
    lost = next((folder / "train").glob("*_green.png"))
    content = lost.read_bytes()
    lost.unlink()
    drawn = []
    original = synthesize.hpa.write_image
    monkeypatch.setattr(synthesize.hpa, "write_image", lambda *task: drawn.append(task) or original(*task))
    make(folder)
    assert len(drawn) == 1 and lost.read_bytes() == content and files(folder) == files(small)
    make(folder, "--train", "4")
    assert len(drawn) == 2 and len(read_labels(folder / "train.csv")) == 4


def test_other_settings_want_another_folder(small, tmp_path):
    folder = make(tmp_path / "claimed", "--train", "1", "--test", "0")
    with pytest.raises(UserError, match=r"holds data of other settings .* --overwrite"):
        make(folder, "--seed", "5")
    make(folder, "--seed", "5", "--train", "1", "--test", "0", "--overwrite")
    assert len(list((folder / "train").iterdir())) == 4
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "train.csv").write_text("ID,Label\n")
    with pytest.raises(UserError, match="did not make"):
        make(foreign)


@pytest.mark.parametrize("flags", [("--train", "0"), ("--test", "0")])
def test_one_split_may_be_empty(tmp_path, flags):
    folder = make(tmp_path / "half", *flags)
    counts = len(read_table(folder / "train.csv", {"ID": str})), len(read_cells(folder / "truth.csv"))
    assert (counts[0] == 0) == ("--train" in flags) and (counts[1] == 0) == ("--test" in flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size", "100"), "--size 100 must be a side or WIDTHxHEIGHT, each 128 to 8192"),
        (("--size", "200x"), "--size 200x"),
        (("--size", "9000"), "--size 9000"),
        (("--train", "0", "--test", "0"), "asks for no image"),
        (("--train", "-1"), "--train -1 must be 0 or more"),
        (("--jobs", "0"), "--jobs 0 must be 1 or more"),
        (("--seed", "-1"), "--seed -1"),
        (("--cells", "5-2"), "--cells 5-2 must be MIN-MAX"),
        (("--cells", "many"), "--cells many"),
        (("--cells", "5-69"), "from 1 to 68 at this --size"),
        (("--competition", "cat"), "--competition cat is not known; choose from: hpa"),
        (("--class_balance", "even"), "--class_balance even is not known; choose from: flat, natural"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path / "none", *flags)
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- labels


def test_a_flat_set_deals_every_class():
    deck = rng(1, "deck").permutation(19).tolist()
    dealt = [image_classes(rng(1, index), deck, index, "flat") for index in range(19)]
    assert {label for classes in dealt for label in classes} == set(range(19))
    assert all(classes == [NEGATIVE] or NEGATIVE not in classes for classes in dealt)
    assert all(classes == sorted(set(classes)) and len(classes) <= 3 for classes in dealt)


def test_a_natural_set_has_the_competitions_frequencies():
    draws = [image_classes(rng(3, index), [], 0, "natural") for index in range(2000)]
    counts = np.bincount([label for classes in draws for label in classes], minlength=19)
    expected = COUNTS / COUNTS.sum()
    assert np.abs(counts / counts.sum() - expected).max() < 0.06
    assert np.corrcoef(counts, expected)[0, 1] > 0.97
    sizes = np.bincount([len(classes) for classes in draws], minlength=4)[1:] / len(draws)
    assert np.abs(sizes - HOW_MANY).max() < 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=12))
def test_each_cell_shows_what_it_can(seed, kinds):
    one = np.ones((1, 1), bool)
    cells = [Cell(0, 0, one, one, 1, 0, dividing=divides, centred=centred) for divides, centred, _ in kinds]
    counted = np.array([yes for *_, yes in kinds])
    classes = [2, SPINDLE, 16]
    shown = cell_classes(rng(seed), classes, able_cells(cells), counted, SETTINGS)
    for cell, names in zip(cells, shown, strict=True):
        assert names == [NEGATIVE] or set(names) <= set(classes)
        assert SPINDLE not in names or cell.dividing
        assert not cell.dividing or set(names) <= IN_DIVISION | {NEGATIVE}
        assert cell.centred or set(names) <= {16, NEGATIVE}
    union = {label for names, yes in zip(shown, counted, strict=True) if yes for label in names}
    dividing, centred, _ = np.array(kinds).T
    for label, able in ((2, ~dividing & centred), (SPINDLE, dividing & centred), (16, dividing | True)):
        assert (label in union) == (able & counted).any()


def test_cells_of_one_image_differ():
    pairs, absent = 0, 0
    draw = rng(8)
    for _ in range(400):
        cells = cell_classes(draw, [0, 16], dict.fromkeys(range(19), np.ones(18, bool)), np.ones(18, bool), SETTINGS)
        pairs += 2 * len(cells)
        absent += sum(label not in cell for cell in cells for label in (0, 16))
    assert 0.22 < absent / pairs < 0.4


# ---------------------------------------------------------------- geometry


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.integers(128, 400), st.integers(128, 400), st.sampled_from(list(CELL_LINES)))
def test_cells_do_not_overlap_and_hold_their_nuclei(seed, width, height, line):
    request = Request(seed, width, height)
    cells, counted = draw_cells(rng(seed), request, CELL_LINES[line], spindles=False)
    canvas = np.zeros((height, width), int)
    for cell, yes in zip(cells, counted, strict=True):
        assert yes == (cell.visible > 0.5)
        assert (cell.mask | ~cell.nucleus).all()
        assert cell.to_edge.shape == cell.to_nucleus.shape == cell.mask.shape
        paste(canvas, cell.top, cell.left, cell.mask.astype(int))
    assert counted.any() and canvas.max() == 1


@pytest.mark.parametrize(("width", "height", "cells"), [(2000, 128, (1, 1)), (128, 128, (40, 40))])
def test_narrow_and_crowded_images_hold_cells(width, height, cells):
    image = draw_image(Request(3, width, height, cells), "train", 1)
    assert image.pixels.shape == (height, width, 4) and image.classes
    assert len(np.unique(image.labels)) == len(image.classes) + 1


def test_visible_share_counts_what_lies_outside():
    cell = Cell(-5, -2, np.ones((10, 4), bool), np.zeros((10, 4), bool), 1.0, 0.0)
    assert cell.share_inside(cell.mask, 100, 100) == 0.25
    cut = cell.crop(100, 100, 1)
    assert (cut.top, cut.left, cut.mask.shape) == (-1, -1, (6, 3))


def test_overlap_of_boxes_by_hand():
    assert overlap(-2, 3, (4, 4), (10, 5)) == ((slice(2, 4), slice(0, 2)), (slice(0, 2), slice(3, 5)))
    inside, _ = overlap(20, -9, (4, 4), (10, 5))
    assert np.ones((4, 4))[inside].size == 0


def test_crowding_border_cuts_two_nuclei_and_dim_cells_occur():
    cells, cut, touching, twin, dim = 0, 0, 0, 0, 0
    for index, line in enumerate([*CELL_LINES] * 2):
        drawn, _ = draw_cells(rng(index), Request(index, 500, 500, (8, 12)), CELL_LINES[line], spindles=False)
        mark_contacts(drawn)
        cells += len(drawn)
        cut += sum(cell.visible < 1 for cell in drawn)
        touching += sum(bool((cell.contact[cell.mask] > 0.5).any()) for cell in drawn)
        twin += sum(cv2.connectedComponents(cell.nucleus.astype(np.uint8))[0] > 2 for cell in drawn)
        dim += sum(cell.dim < 1 for cell in drawn)
    assert cut > 0.1 * cells and touching > 0.3 * cells
    assert 0 < twin < 0.3 * cells and 0 < dim < 0.3 * cells


# ---------------------------------------------------------------- threads


def test_dots_by_hand():
    points = np.array([[0.5, 0.5], [1.9, 2.0], [-0.1, 0], [np.nan, 1], [1, 3.0]])
    drawn = dots(points, np.array([1.0, 2, 4, 8, 16]), (2, 3))
    assert drawn.tolist() == [[1, 0, 0], [0, 0, 2]]


def test_splat_keeps_the_length_of_threads():
    paths = np.array([[[2, 2], [2, 10], [2, 18]], [[5, 5], [5, 9], [np.nan, np.nan]]], np.float32)
    drawn = splat(paths, np.array([1.0, 3.0]), (8, 24), step=8)
    assert drawn[2].sum() == pytest.approx(2) and drawn[5].sum() == pytest.approx(3)
    assert drawn[2, 2:18].all() and not drawn[:2].any()


def test_somewhere_goes_where_the_chance_is():
    chance = np.zeros((5, 6))
    chance[3, 4] = 2
    points = somewhere(rng(1), chance, 50)
    assert (points.astype(int) == [3, 4]).all()
    assert len(somewhere(rng(1), np.zeros((3, 3)), 5)) == 0


def test_threads_stay_in_the_cytoplasm(cell):
    start = somewhere(rng(2), cell.cytoplasm, 50)
    paths = grow(rng(2), cell, start, rng(3).uniform(0, 6, 50), Growth(length=80, wiggle=0.2, outward=0.1, along=0.1))
    y, x = paths[~np.isnan(paths).any(axis=2)].astype(int).T
    assert cell.cytoplasm[y, x].all()


def test_a_wide_blur_made_small_is_a_blur():
    spot = np.zeros((90, 120), np.float32)
    spot[45, 60] = 1000
    exact = cv2.GaussianBlur(spot, (0, 0), 9)
    assert np.abs(soft(spot, 9) - exact).max() < 0.15 * exact.max()
    assert soft(spot, 9).sum() == pytest.approx(1000, rel=0.02)


# ---------------------------------------------------------------- patterns


def _scene(seed: int, spindles: bool) -> tuple[list[Cell], Textures]:
    request = Request(seed, 760, 760, (5, 6))
    cells, counted = draw_cells(rng(seed), request, CELL_LINES["osteosarcoma"], spindles)
    mark_contacts(cells)
    textures = Textures(rng(seed, "t"), 760, 760, cells[0].scale)
    picked = []
    for cell, yes in zip(cells, counted, strict=True):
        if yes and cell.visible > 0.95:
            cell.red = draw_microtubules(cell, textures, rng(seed, "r"))
            cell.yellow = draw_reticulum(cell, textures, rng(seed, "y"))
            picked.append(cell)
    return picked, textures


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Cell, Textures]]:
    """Whole, undivided cells with nucleoli, and the textures of their images."""
    found = []
    for seed in range(4):
        cells, textures = _scene(seed, spindles=False)
        found += [(cell, textures) for cell in cells if len(cell.nucleoli) >= 2 and not cell.dividing]
    assert len(found) >= 5
    return found


@pytest.fixture(scope="module")
def cell(scenes) -> Cell:
    return scenes[0][0]


@pytest.fixture(scope="module")
def divided() -> tuple[Cell, Textures]:
    for seed in range(20):
        cells, textures = _scene(seed, spindles=True)
        for one in cells:
            if one.dividing:
                return one, textures
    raise AssertionError("no dividing cell")


def drawings(scenes, index: int):
    """Each cell with its drawing of one class; every drawing is finite, >= 0 and inside its cell."""
    for number, (one, textures) in enumerate(scenes):
        drawn = PATTERNS[index](one, textures, rng(number, index))
        assert drawn.shape == one.mask.shape and np.isfinite(drawn).all() and drawn.min() >= 0
        near = soft(one.mask.astype(np.float32), 4 * one.scale) > 0.01
        assert drawn[~near].sum() <= 0.02 * drawn.sum() + 1e-6
        yield one, textures, drawn


def share(drawn: np.ndarray, where: np.ndarray) -> float:
    return float(drawn[where].sum() / drawn.sum())


def spots(drawn: np.ndarray, cut: float = 0.5) -> np.ndarray:
    """Areas of the connected parts above `cut` times the 99.9th percentile of what is drawn."""
    high = drawn > cut * np.quantile(drawn[drawn > 0.02], 0.999)
    return cv2.connectedComponentsWithStats(high.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]


def test_every_class_has_a_pattern():
    assert list(PATTERNS) == list(range(len(CLASSES)))


def test_nucleoplasm_fills_the_nucleus_but_not_nucleoli(scenes):
    for one, textures, drawn in drawings(scenes, 0):
        holes = nucleolus_map(one, textures)
        assert share(drawn, one.nucleus) > 0.95
        assert drawn[holes > 0.9].mean() < 0.75 * drawn[one.nucleus & (holes == 0)].mean()


def test_nuclear_membrane_is_a_ring(scenes):
    for one, _, drawn in drawings(scenes, 1):
        ring = (np.where(one.nucleus, one.in_nucleus, one.to_nucleus) < 2 * one.scale) & one.mask
        assert drawn[ring].mean() > 3 * drawn[one.in_nucleus > 10 * one.scale].mean()
        assert share(drawn, one.to_nucleus > 8 * one.scale) < 0.05


def test_nucleoli_are_few_large_spots(scenes):
    for one, textures, drawn in drawings(scenes, 2):
        body = nucleolus_map(one, textures)
        assert drawn[body > 0.9].mean() > 5 * drawn[one.nucleus & (body == 0)].mean()
        assert 1 <= len(spots(drawn)) <= len(one.nucleoli)


def test_fibrillar_centres_are_small_spots_in_nucleoli(scenes):
    for one, textures, drawn in drawings(scenes, 3):
        body = nucleolus_map(one, textures) > 0
        bright = drawn > 0.5 * drawn.max()
        assert body[bright].mean() > 0.9 and bright.sum() < 0.4 * body.sum()


def test_speckles_are_many_irregular_spots_in_the_nucleus(scenes):
    counts = []
    for one, _, drawn in drawings(scenes, 4):
        assert share(drawn, one.nucleus) > 0.95
        counts.append((spots(drawn) > 8 * one.scale**2).sum())
    assert 12 <= np.median(counts) <= 60


def test_nuclear_bodies_are_some_small_round_spots(scenes):
    for one, _, drawn in drawings(scenes, 5):
        areas = spots(drawn)
        assert 1 <= len(areas) <= 10 and areas.max() < 500 * one.scale**2
        assert share(drawn, one.nucleus) > 0.9


@pytest.mark.parametrize(("index", "channel"), [(6, "yellow"), (10, "red")])
def test_er_and_microtubules_follow_their_stain(scenes, index, channel):
    for one, _, drawn in drawings(scenes, index):
        assert np.corrcoef(drawn[one.mask], getattr(one, channel)[one.mask])[0, 1] > 0.9
        assert drawn[one.cytoplasm].mean() > 1.5 * drawn[one.nucleus].mean()


def test_golgi_is_a_patch_beside_the_nucleus(scenes):
    for one, _, drawn in drawings(scenes, 7):
        y, x = np.indices(drawn.shape)
        near = np.hypot(y - one.centrosome[0], x - one.centrosome[1]) < 90 * one.scale
        assert share(drawn, near) > 0.8 and share(drawn, one.nucleus) < 0.02
        assert (drawn > 0.4).sum() < 0.25 * one.mask.sum()


def test_intermediate_filaments_crowd_about_the_nucleus(scenes):
    for one, _, drawn in drawings(scenes, 8):
        assert share(drawn, one.nucleus) < 0.02
        centre = (one.outward * drawn)[one.cytoplasm].sum() / drawn[one.cytoplasm].sum()
        assert centre < one.outward[one.cytoplasm].mean()


def _direction(drawn: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """Angle of the threads in `where` (radians) and how much they agree (0..1), from the structure tensor."""
    dy, dx = cv2.Sobel(drawn, cv2.CV_32F, 0, 1), cv2.Sobel(drawn, cv2.CV_32F, 1, 0)
    xx, yy, xy = ((part)[where].sum() for part in (dx * dx, dy * dy, dx * dy))
    return 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2, float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def test_actin_fibres_are_parallel_and_line_the_edge(scenes):
    for one, textures, drawn in drawings(scenes, 9):
        inner = one.to_edge > 12 * one.scale
        angle, agree = _direction(drawn, inner)
        off = abs((angle - one.axis + np.pi / 2) % np.pi - np.pi / 2)
        assert agree > 0.6 and off < 0.6
        assert agree > _direction(PATTERNS[8](one, textures, rng(1)), inner)[1]
        assert drawn[one.mask & (one.to_edge < 3 * one.scale)].mean() > 0.25


def test_the_spindle_lies_between_the_poles_of_a_dividing_cell(scenes, divided):
    for _, _, drawn in drawings(scenes, 11):
        assert not drawn.any()
    for one, _, drawn in drawings([divided], 11):
        y, x = np.indices(drawn.shape)
        first, second = np.array(one.poles)
        along = second - first
        ahead = ((y - first[0]) * along[0] + (x - first[1]) * along[1]) / (along @ along)
        aside = np.abs((y - first[0]) * along[1] - (x - first[1]) * along[0]) / np.hypot(*along)
        spindle = (ahead > -0.1) & (ahead < 1.1) & (aside < 0.5 * np.hypot(*along))
        assert drawn[spindle & one.mask].mean() > 3 * drawn[~spindle & one.mask].mean()
        plate = draw_nucleus(*divided, rng(1))
        assert abs(_centroid(plate) - _centroid(drawn)).max() < 12 * one.scale


def _centroid(drawn: np.ndarray) -> np.ndarray:
    y, x = np.indices(drawn.shape)
    return np.array([(y * drawn).sum(), (x * drawn).sum()]) / drawn.sum()


def test_the_centrosome_is_one_dot_or_a_pair_beside_the_nucleus(scenes, divided):
    counts = set()
    for one, _, drawn in drawings(scenes, 12):
        areas = spots(drawn)
        counts.add(len(areas))
        assert areas.sum() < 200 * one.scale**2
        top = np.unravel_index(drawn.argmax(), drawn.shape)
        assert one.to_nucleus[top] < 45 * one.scale
    assert counts <= {1, 2}
    assert len(spots(PATTERNS[12](*divided, rng(1)))) == 2


def test_the_plasma_membrane_lines_the_edge_most_where_cells_touch(scenes):
    touching = []
    for one, _, drawn in drawings(scenes, 13):
        edge = one.mask & (one.to_edge < 4 * one.scale)
        assert drawn[edge].mean() > 4 * drawn[one.to_edge > 15 * one.scale].mean()
        contact = edge & (one.contact > 0.8)
        if contact.sum() > 200:
            touching.append(drawn[contact].mean() / drawn[edge & (one.contact < 0.1)].mean())
    assert touching and np.median(touching) > 1.4


def test_mitochondria_are_many_worms_in_the_cytoplasm(scenes):
    for one, _, drawn in drawings(scenes, 14):
        assert share(drawn, one.cytoplasm) > 0.97 and len(spots(drawn, 0.35)) > 10


def test_the_aggresome_is_one_blob_beside_the_nucleus(scenes):
    for one, _, drawn in drawings(scenes, 15):
        areas = spots(soft(drawn, 3 * one.scale))
        assert len(areas) == 1 and 100 < areas[0] / one.scale**2 < 2000
        assert share(drawn, one.cytoplasm) > 0.97


def test_the_cytosol_spares_the_nucleus(scenes):
    for one, _, drawn in drawings(scenes, 16):
        deep = one.cytoplasm & (one.to_edge > 15 * one.scale) & (one.to_nucleus > 5 * one.scale)
        assert drawn[deep].mean() > 3 * drawn[one.in_nucleus > 5 * one.scale].mean()


def test_vesicles_are_scattered_dots(scenes):
    for one, _, drawn in drawings(scenes, 17):
        assert share(drawn, one.cytoplasm) > 0.97 and len(spots(drawn, 0.3)) > 8
        assert (drawn > 0.3).sum() < 0.15 * one.mask.sum()


def test_negative_draws_nothing_and_stays_dark_in_the_image(scenes):
    for _, _, drawn in drawings(scenes, 18):
        assert not drawn.any()
    for index in range(19):
        image = draw_image(Request(6, 200, 200), "train", index)
        if image.classes == [[18]] * len(image.classes):
            assert image.pixels[..., 1][image.labels > 0].mean() < 15
            return
    raise AssertionError("no negative image among 19 of a flat set")


def test_a_slender_nucleus_has_a_nucleolus_too():
    mask, nucleus = np.ones((40, 80), bool), np.zeros((40, 80), bool)
    nucleus[18:21, 10:70] = True
    slender = Cell(0, 0, mask, nucleus, 1.0, 0.0)
    seen = np.zeros(mask.shape, bool)
    seen[:, :40] = True
    add_organelles(slender, rng(1), seen)
    (y, x, radius) = slender.nucleoli[0]
    assert len(slender.nucleoli) == 1 and nucleus[int(y), int(x)] and x < 40 and radius >= 1
    assert slender.centrosome[1] < 40


def test_organelles_lie_where_they_should(cell):
    for seed in range(5):
        other = Cell(0, 0, cell.mask, cell.nucleus, cell.scale, cell.axis)
        add_organelles(other, rng(seed), np.ones(cell.mask.shape, bool))
        assert other.mask[tuple(int(part) for part in other.centrosome)]
        assert other.nucleoli and all(other.nucleus[int(y), int(x)] for y, x, _ in other.nucleoli)


# ---------------------------------------------------------------- likeness


@pytest.mark.slow
def test_made_up_images_have_the_statistics_of_real_ones(real_data):
    """Mean and grain of the three stains inside cells lie within a factor of 2.5 of the range of the real images."""

    def figures(pixels: np.ndarray, inside: np.ndarray) -> list[float]:
        values = []
        for channel in (0, 2, 3):
            plane = pixels[..., channel].astype(np.float32)
            grain = (plane - soft(plane, 2))[inside].std() / plane[inside].mean()
            values += [plane[inside].mean(), grain]
        return values

    real = []
    for path in sorted((real_data / "hpa" / "segmentator_masks").glob("*.png"))[:2]:
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        real.append(figures(read_image(real_data / "hpa" / "train", path.stem), mask > 0))
    made = [draw_image(Request(2, 1024, 1024), "train", index) for index in range(6)]
    ours = np.median([figures(image.pixels, image.labels > 0) for image in made], axis=0)
    assert (ours > np.min(real, axis=0) / 2.5).all() and (ours < 2.5 * np.max(real, axis=0)).all()
