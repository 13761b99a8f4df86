"""Rules that make one opinion of many: numbers by hand, and what must hold for any numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from cells.combine import COMBINE, NEGATIVE, combine, decay, exclude, mean_logits, ranks, weighted_mean

CELL = np.array([[0.8, 0.2, 0.1]])
IMAGE = np.array([[0.5, 0.5, 0.4]])


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["product"] * 3, [0.4, 0.1, 0.04]),
        (["mean"] * 3, [0.65, 0.35, 0.25]),
        (["weighted"] * 3, [0.71, 0.29, 0.19]),
        (["weighted", "product", "mean"], [0.71, 0.1, 0.25]),
    ],
)
def test_combine_by_hand(rules: list[str], expected: list[float]) -> None:
    np.testing.assert_allclose(combine(CELL, IMAGE, rules), [expected])


@pytest.mark.parametrize(("how", "negative"), [("max", 0.4), ("own", 0.04), ("1-max", 0.6), ("product", 0.6 * 0.9)])
def test_exclude_by_hand(how: str, negative: float) -> None:
    combined = CELL * IMAGE
    np.testing.assert_allclose(exclude(combined, CELL, IMAGE, 2, how, penalty=False), [[0.4, 0.1, negative]])
    expected = [[0.4 * (1 - negative), 0.1 * (1 - negative), negative]]
    np.testing.assert_allclose(exclude(combined, CELL, IMAGE, 2, how), expected)
    np.testing.assert_allclose(combined, CELL * IMAGE)  # the arguments stay as they are


def test_the_share_of_the_cells() -> None:
    both = ["weighted"] * 3
    np.testing.assert_allclose(combine(CELL, IMAGE, both, 1.0), CELL)
    np.testing.assert_allclose(combine(CELL, IMAGE, both, 0.0), IMAGE)
    np.testing.assert_allclose(combine(CELL, IMAGE, both, 0.5), combine(CELL, IMAGE, ["mean"] * 3))


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(COMBINE)), st.sampled_from(list(NEGATIVE)))
@settings(max_examples=40, deadline=None)
def test_any_rule_gives_probabilities_that_rise_with_the_opinions(seed: int, how: str, negative_how: str) -> None:
    generator = np.random.default_rng(seed)
    cell, image = generator.random((2, 5, 4))
    combined = combine(cell, image, [how] * 4)
    higher = combine(np.minimum(cell + 0.1, 1), image, [how] * 4)
    assert (higher >= combined).all()
    result = exclude(combined, cell, image, 3, negative_how)
    assert ((result >= 0) & (result <= 1)).all()
    assert (result[:, :3] <= combined[:, :3]).all()
    moved = exclude(combined[:, ::-1], cell[:, ::-1], image[:, ::-1], 0, negative_how)
    np.testing.assert_allclose(moved[:, ::-1], result)  # the classes' order does not matter


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_decay_against_a_loop(seed: int, factor: float) -> None:
    generator = np.random.default_rng(seed)
    scores, images = generator.integers(5, size=12) / 4, generator.choice(["a", "b", "c"], 12)
    result = decay(scores, images, factor)
    for row in range(12):
        above = sum(scores[other] > scores[row] and images[other] == images[row] for other in range(12))
        assert result[row] == pytest.approx(factor**above)
    assert all(result[images == name].max() == 1 for name in np.unique(images))
    assert (decay(scores, images, 1.0) == 1).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_weighted_mean_lies_between_its_tables(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    tables = [generator.random((6, 3)) for _ in range(count)]
    weights = generator.random((count, 3)) + 1e-3
    mean = weighted_mean(tables, weights)
    assert (mean >= np.min(tables, axis=0) - 1e-12).all()
    assert (mean <= np.max(tables, axis=0) + 1e-12).all()
    np.testing.assert_allclose(mean, weighted_mean(tables, 7 * weights))


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
@settings(max_examples=20, deadline=None)
def test_ranks_are_scipys(seed: int, rows: int) -> None:
    values = np.random.default_rng(seed).integers(8, size=(rows, 3)) / 7
    np.testing.assert_allclose(ranks(values), (rankdata(values, axis=0) - 1) / (rows - 1))
    assert ranks(values[:1]).tolist() == [[0.5] * 3]


def test_single_mixes_where_a_cell_is_alone():
    alone = np.array([True, False])
    cell, image = np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([[0.4, 0.6], [0.4, 0.6]])
    expected = [[0.25 * 0.8 + 0.75 * 0.4, 0.25 * 0.2 + 0.75 * 0.6], [0.8, 0.2]]
    np.testing.assert_allclose(combine(cell, image, ["single"] * 2, 0.25, alone), expected)


def test_mean_logits_by_hand():
    """Odds of 4 and 1 have the geometric mean 2; weights of 3 and 1 give 4 ** .75 = 2 ** 1.5."""
    tables = [np.array([[0.8, 0.2]]), np.array([[0.5, 0.5]])]
    odds = np.array([2.0, 2**1.5])
    for exclusive in (True, False):
        for weights, odd in zip(([[1, 1], [1, 1]], [[3, 3], [1, 1]]), odds, strict=True):
            found = mean_logits(tables, np.array(weights, float), exclusive)
            np.testing.assert_allclose(found, [[odd / (1 + odd), 1 / (1 + odd)]], rtol=1e-6)
    certain = mean_logits([np.array([[1.0, 0.0]])], np.ones((1, 2)), True)
    assert np.isfinite(certain).all() and certain[0, 0] > 0.999
