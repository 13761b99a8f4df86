"""The border rule and the completeness, by hand and on discs that are cut at known places."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cells.borders import RULES, WEIGHTS, border_weights, completeness, disc_share, measure_borders
from cells.crops import boxes


def scene(*parts: tuple[int, int, int, int, int], shape=(100, 100)) -> np.ndarray:
    """A label image of rectangles (label, y1, y2, x1, x2)."""
    labels = np.zeros(shape, np.int32)
    for label, y1, y2, x1, x2 in parts:
        labels[y1:y2, x1:x2] = label
    return labels


# Whole cells 1 and 2: 400 pixels each, nuclei 100. At the border: 3 with a nucleus of 49 (< .5), 4 with 50 (not < .5),
# 5 with a cell of 150 (< .4) and a nucleus of 69 (< .7), 6 with a cell of 160 (not < .4) and the same nucleus.
CELLS = scene(
    (1, 20, 40, 20, 40), (2, 20, 40, 50, 70), (3, 0, 20, 0, 20), (4, 0, 20, 60, 80),
    (5, 85, 100, 0, 10), (6, 84, 100, 40, 50),
)  # fmt: skip
NUCLEI = scene(
    (1, 25, 35, 25, 35), (2, 25, 35, 55, 65), (3, 0, 7, 5, 12), (4, 0, 5, 65, 75),
    (5, 90, 100, 0, 6), (6, 90, 100, 41, 47),
)  # fmt: skip
NUCLEI[90:100, 6][:9] = 5
NUCLEI[90:100, 47][:9] = 6


def test_columns_by_hand():
    table = measure_borders(CELLS, NUCLEI)
    assert table.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert table["area"].tolist() == [400, 400, 400, 400, 150, 160]
    assert table["nucleus_area"].tolist() == [100, 100, 49, 50, 69, 69]
    assert table["nucleus_box"].tolist() == [100, 100, 49, 50, 70, 70]  # of 5 and 6 one pixel is not the nucleus's
    assert table["touches_border"].tolist() == [0, 0, 1, 1, 1, 1]
    assert table["border_pixels"].tolist() == [0, 0, 40, 20, 25, 10]  # cells 3 and 5 lie in corners
    assert table["completeness"].tolist()[:2] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("rule", "keep"),
    [
        ("published", [1, 1, 0, 1, 0, 1]),
        ("nucleus", [1, 1, 0, 1, 1, 1]),
        ("both", [1, 1, 1, 1, 0, 1]),
        ("none", [1, 1, 1, 1, 1, 1]),
    ],
)
def test_rules_by_hand(rule, keep):
    assert measure_borders(CELLS, NUCLEI, rule)["keep"].tolist() == keep


def test_a_small_nucleus_inside_does_not_count_as_cut():
    cells = scene((1, 20, 40, 20, 40), (2, 0, 20, 60, 80))
    nuclei = scene((1, 25, 35, 25, 35), (2, 10, 14, 65, 75))  # 40 of 100, but the border does not cut it
    assert measure_borders(cells, nuclei)["keep"].tolist() == [1, 1]


@pytest.mark.parametrize("rule", list(RULES))
def test_scraps_are_dropped_anywhere(rule):
    cells = scene((1, 20, 40, 20, 40), (2, 20, 40, 50, 70), (3, 60, 64, 60, 65))  # 20 < .1 x (400 + 400 + 20) / 3
    assert measure_borders(cells, cells, rule)["keep"].tolist() == [1, 1, 0]
    assert measure_borders(cells, cells, "none")["keep"].tolist() == [1, 1, 1]


def test_all_cells_at_the_border_are_compared_with_each_other():
    cells = scene((1, 0, 20, 0, 20), (2, 80, 100, 80, 100), (3, 0, 5, 50, 60))  # 50 < .4 x 850 / 3
    assert measure_borders(cells, cells)["keep"].tolist() == [1, 1, 0]


def test_without_nuclei_the_cells_decide():
    cells = scene((1, 20, 40, 20, 40), (2, 0, 19, 60, 70), (3, 0, 20, 0, 10))  # 190 and 200 of 400 at t = .5
    assert measure_borders(cells, np.zeros_like(cells), "nucleus")["keep"].tolist() == [1, 0, 1]


def test_no_cells_and_gaps_in_the_ids():
    empty = np.zeros((5, 7), np.int32)
    assert len(measure_borders(empty, empty)) == 0
    gaps = scene((7, 1, 3, 1, 3), (300, 0, 2, 4, 6), shape=(5, 7))
    assert measure_borders(gaps, gaps).index.tolist() == [7, 300]


def test_share_of_half_a_disc():
    assert disc_share(np.array([np.pi / 8 * 200**2]), np.array([200])) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.9])
def test_share_of_cut_discs(share):
    y, x = np.mgrid[:201, :201] - 100
    disc = (y**2 + x**2 <= 90**2).astype(np.int32)
    rows = np.cumsum(disc.sum(axis=1)) / disc.sum()
    cut = disc[: np.searchsorted(rows, share) + 1]
    table = measure_borders(cut, cut)
    area, border = table["area"].to_numpy(), table["border_pixels"].to_numpy()
    assert disc_share(area, border) == pytest.approx(share, abs=0.03)
    assert completeness(area, border, typical=disc.sum()) == pytest.approx(share, abs=0.03)


def test_completeness_of_cut_real_cells(real_data):
    random = np.random.default_rng(0)
    errors = []
    for path in sorted((real_data / "hpa" / "segmentator_masks").glob("*.png")):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        borders = measure_borders(labels, labels)
        whole = borders[borders["touches_border"] == 0]
        for cell, (x1, y1, x2, y2) in boxes(labels).items():
            if cell in whole.index:
                cut = labels[random.integers(y1 + 1, y2) : y2, x1:x2] == cell
                got = completeness(np.array([cut.sum()]), np.array([cut[0].sum()]), whole["area"].drop(cell).mean())
                errors.append(got.item() - cut.sum() / whole["area"][cell])
    assert len(errors) > 15
    assert np.abs(errors).mean() < 0.15


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 4)))
def test_equal_to_cell_by_cell(labels):
    table = measure_borders(labels, labels)
    assert table.index.tolist() == [label for label in np.unique(labels).tolist() if label]
    for label, row in table.iterrows():
        mask = labels == label
        assert row["area"] == row["nucleus_area"] == mask.sum()
        assert row["border_pixels"] == mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
        assert row["touches_border"] == (row["border_pixels"] > 0)
        assert 0 <= row["completeness"] <= 1


def border_table(*rows: tuple[str, int, int, int, int, float]) -> pd.DataFrame:
    """A cells table; the box about each nucleus is 20 pixels larger than the nucleus."""
    columns = ["ImageID", "touches_border", "border_pixels", "area", "nucleus_area", "completeness"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(nucleus_box=table["nucleus_area"] + 20 * (table["nucleus_area"] > 0))


WEIGHED = border_table(
    ("a", 0, 0, 300, 100, 1), ("b", 1, 30, 90, 40, 0.7), ("a", 1, 20, 100, 60, 0.25), ("a", 0, 0, 500, 140, 1),
    ("a", 1, 0, 500, 0, 0.9), ("b", 1, 10, 110, 0, 0.6), ("c", 0, 0, 80, 0, 1), ("c", 1, 9, 20, 0, 0.4),
)  # fmt: skip


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("area", [1, 0.9, 0.25, 1, 1, 1, 1, 0.25]),  # means: a 400, b 100 (all touch the border), c 80
        ("nucleus", [1, 1, 0.5, 1, 0, 0, 1, 0.25]),  # means: a 120, b 40; c has no nuclei: the cells' areas
        ("nucleus_box", [1, 1, 80 / 140, 1, 0, 0, 1, 0.25]),  # means: a 140, b 60
        ("completeness", [1, 0.7, 0.25, 1, 0.9, 0.6, 1, 0.4]),
    ],
)
def test_border_weights_by_hand(how: str, expected: list[float]) -> None:
    np.testing.assert_allclose(border_weights(WEIGHED, how), expected)


def test_the_touch_of_a_half_disc_weighs_a_half() -> None:
    radius = 40
    half = border_table(("a", 1, 2 * radius, round(np.pi * radius**2 / 2), 0, 1.0))
    assert border_weights(half, "touch")[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("how", WEIGHTS)
def test_border_weights_are_those_of_the_images_alone(how: str) -> None:
    together = border_weights(WEIGHED, how)
    for name in "abc":
        own = (WEIGHED["ImageID"] == name).to_numpy()
        np.testing.assert_allclose(border_weights(WEIGHED[own].reset_index(drop=True), how), together[own])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_border_cell_of_which_more_is_seen_weighs_more(seed: int) -> None:
    generator = np.random.default_rng(seed)
    areas, cut = generator.integers(1, 900, (2, 6)), generator.integers(1, 60)
    rows = [("a", 1, cut, area, nucleus, 0.5) for area, nucleus in areas.T] + [("a", 0, 0, 700, 500, 1)]
    table = border_table(*rows)
    columns = {"touch": "area", "area": "area", "nucleus": "nucleus_area", "nucleus_box": "nucleus_box"}
    for how, column in columns.items():
        weights = border_weights(table, how)
        assert ((weights >= 0) & (weights <= 1)).all()
        assert weights[-1] == 1
        assert (np.diff(weights[:-1][np.argsort(table[column].to_numpy()[:-1], kind="stable")]) >= 0).all()
    longer = border_weights(table.assign(border_pixels=table["border_pixels"] + 5), "touch")
    assert (longer <= border_weights(table, "touch")).all()


@pytest.mark.parametrize("how", WEIGHTS)
def test_measured_cells_can_be_weighed(how: str) -> None:
    table = measure_borders(CELLS, NUCLEI, "none").assign(ImageID="a")
    weights = border_weights(table, how)
    assert (weights[table["touches_border"] == 0] == 1).all()
    assert weights[4] < 1  # cell 5 is smaller than whole cells, and so is its nucleus
