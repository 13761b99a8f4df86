"""The finder `watershed`: its contract on drawn images, its parts by hand, the segmentator's cells on real images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.stress import CHANGES, crowd, keep_halves, whole_cells
from benchmarks.watershed import agree, best_overlaps, main, measure, real_images
from cells.watershed import enlarge, find_cells, reduce
from cells.watershed_cytoplasm import background, foreground, stain
from cells.watershed_nuclei import WIDTH, Contact, find_nuclei, mend, nuclear_width, split, subtract_background, unmix
from common.seeds import rng

BACKGROUND, CYTOPLASM, NUCLEUS = 0, 60, 100


def draw(shape: tuple[int, int], cells: list[tuple[float, float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Round cells (y, x, radius) with a nucleus of half the radius and light that falls off: image, label image.

    Where two touch, each pixel belongs to the nearer one, and the light is lowest where they meet.
    """
    y, x = np.mgrid[: shape[0], : shape[1]]
    far = np.stack([np.hypot(y - top, x - left) / radius for top, left, radius in cells])
    nearest, labels = far.min(axis=0), np.where(far.min(axis=0) <= 1, far.argmin(axis=0) + 1, 0)
    image = np.zeros((*shape, 4), np.uint8)
    texture = rng(1, "texture").normal(0, 3, shape)
    cytoplasm = np.where(labels > 0, CYTOPLASM * (1.2 - 0.8 * nearest) + texture, BACKGROUND)
    image[..., 0] = image[..., 3] = np.clip(cytoplasm, 0, 255)
    image[..., 2] = np.where(nearest < 0.5, NUCLEUS + texture, 0)
    return image, labels


def grid(rows: int, columns: int, pitch: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    image, label = draw((pitch, pitch), [(pitch / 2, pitch / 2, radius)])
    number = np.arange(1, rows * columns + 1).reshape(rows, columns).repeat(pitch, axis=0).repeat(pitch, axis=1)
    return np.tile(image, (rows, columns, 1)), np.tile(label, (rows, columns)) * number


def check_contract(image: np.ndarray) -> int:
    """Ids without gaps, nuclei in their own cells, every cell with a nucleus; gives the number of cells."""
    cells, nuclei = find_cells(image)
    assert cells.shape == nuclei.shape == image.shape[:2]
    assert cells.dtype == nuclei.dtype == np.int32
    assert (cells[nuclei > 0] == nuclei[nuclei > 0]).all()
    count = int(cells.max())
    assert np.unique(cells[cells > 0]).tolist() == np.unique(nuclei[nuclei > 0]).tolist() == list(range(1, count + 1))
    return count


@pytest.fixture(scope="module")
def three_cells() -> tuple[np.ndarray, np.ndarray]:
    """Two touching cells and one apart, not square."""
    return draw((420, 700), [(150, 150, 100), (200, 330, 110), (280, 570, 90)])


def test_drawn_cells_are_found_where_they_are(three_cells):
    image, truth = three_cells
    assert check_contract(image) == 3
    assert best_overlaps(truth, find_cells(image)[0]).min() > 0.9


def test_uint16_gives_the_same_as_uint8(three_cells):
    image, _ = three_cells
    for eight, sixteen in zip(find_cells(image), find_cells(image.astype(np.uint16) * 257), strict=True):
        assert (eight == sixteen).all()


def test_two_runs_agree_and_leave_the_image_alone(three_cells):
    image = three_cells[0].copy()
    first, second = find_cells(image), find_cells(image)
    assert (image == three_cells[0]).all()
    assert all((one == other).all() for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("change", ["gain 0.1", "offset 15", "red x 0.3", "noise 5", "16 bits", "x 0.5625", "x 1.5"])
def test_exposure_noise_and_scale_do_not_matter(three_cells, change):
    image, truth = CHANGES[change](*three_cells)
    assert agree(truth, find_cells(image)[0])[:3] == (3, 3, 3)


def test_more_than_255_cells():
    image, truth = grid(16, 17, 44, 20)
    cells, nuclei = find_cells(image)
    assert cells.max() == nuclei.max() == 272
    assert agree(truth, cells).matched == 272


def test_touching_nuclei_of_two_cells_are_cut():
    image, truth = draw((300, 400), [(150, 130, 100), (150, 270, 100)])
    y, x = np.mgrid[:300, :400]
    image[..., 2] = 0
    for left in (168, 232):  # two discs of radius 34 with a narrow neck between them
        image[np.hypot(y - 150, x - left) < 34, 2] = NUCLEUS
    assert agree(truth, find_cells(image)[0])[:3] == (2, 2, 2)


@pytest.mark.parametrize("value", [0, 77, 255])
@pytest.mark.parametrize("shape", [(1, 1), (128, 128), (64, 500)])
def test_an_empty_image_has_no_cells(shape, value):
    assert check_contract(np.full((*shape, 4), value, np.uint8)) == 0
    assert check_contract(np.full((*shape, 4), value * 257, np.uint16)) == 0


@pytest.mark.parametrize("channel", range(4))
def test_a_missing_or_saturated_channel(three_cells, channel):
    for value in (0, 255):
        image = three_cells[0].copy()
        image[..., channel] = value
        assert check_contract(image) == (0 if channel == 2 else 3)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), level=st.integers(1, 255), seed=st.integers(0, 99))
def test_the_contract_holds_on_noise_of_any_shape(height, width, level, seed):
    check_contract(rng(seed, "noise").integers(0, level + 1, (height, width, 4)).astype(np.uint8))


def test_only_the_view_of_an_array_is_needed(three_cells):
    assert check_contract(three_cells[0][::-1, ::2]) == 3


def test_a_speck_is_no_nucleus(three_cells):
    image = three_cells[0].copy()
    image[20:32, 600:612, 2] = 255
    assert check_contract(image) == 3


def test_reduce_averages_and_scales_16_bits():
    image = np.zeros((4, 4, 1), np.uint16)
    image[:2, :2] = 257 * 100
    assert reduce(image, 0.5)[..., None].squeeze().tolist() == [[100, 0], [0, 0]]


def test_enlarge_keeps_labels_and_smooths_outlines():
    small = np.zeros((20, 30), np.int32)
    small[4:12, 5:15], small[4:12, 15:25] = 1, 7
    large = enlarge(small, (80, 120))
    assert np.unique(large).tolist() == [0, 1, 7]
    assert large[32, 40] == 1 and large[32, 80] == 7
    assert (large[32, 24:96] > 0).all()  # no gap where the two meet
    assert large[16, 20] == 0  # the corner is round
    assert enlarge(large, (20, 30)).max() == 7


def test_enlarge_leaves_no_gap_where_three_meet():
    small = np.zeros((30, 30), np.int32)
    small[5:25, 5:25] = 1
    small[5:15, 15:25], small[15:25, 15:25] = 2, 3
    assert (enlarge(small, (120, 120))[30:90, 30:90] > 0).all()


def test_mend_fills_keeps_the_seeds_piece_and_takes_nothing_from_others():
    labels = np.zeros((40, 60), int)
    labels[5:35, 5:30], labels[5:35, 30:40], labels[2:4, 50:55] = 1, 2, 1
    labels[15:18, 10:14] = 0  # a hole
    labels[20:22, 5:12] = 0  # a notch
    seeds = np.zeros_like(labels)
    seeds[10, 8], seeds[10, 35] = 1, 2
    mended = mend(labels, seeds, 3)
    assert (mended[5:35, 5:30] == 1).all() and (mended[5:35, 30:40] == 2).all()
    assert mended[2:4, 50:55].max() == 0


def discs(shape: tuple[int, int], places: list[tuple[int, int, float]], level: float = 100) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = [np.hypot(y - top, x - left) < radius for top, left, radius in places]
    return np.float32(level) * np.any(inside, axis=0)


def test_nuclear_width_is_that_of_the_discs_even_when_they_touch():
    assert nuclear_width(discs((200, 300), [(50, 50, 16), (100, 150, 16), (100, 181, 16)])) == pytest.approx(32, abs=2)
    assert nuclear_width(np.zeros((50, 50), np.float32)) == 0


def test_a_dim_nucleus_beside_a_bright_one_keeps_its_size():
    blue = np.maximum(discs((120, 200), [(60, 60, 16)], 200), discs((120, 200), [(60, 110, 16)], 50))
    nuclei = find_nuclei(blue)
    areas = np.bincount(nuclei.ravel())[1:]
    assert sorted(areas[areas > 0]) == pytest.approx([np.pi * 16**2] * 2, rel=0.1)


def test_an_ellipse_is_one_nucleus_and_a_dumbbell_two():
    y, x = np.mgrid[:120, :200]
    ellipse = np.hypot((y - 60) / 16, (x - 100) / 40) < 1
    light = np.full(ellipse.shape, 100, np.float32)
    assert len(np.unique(split(ellipse, light * ellipse))) == 2
    dumbbell = discs((120, 200), [(60, 82, 19), (60, 118, 19)]) > 0
    assert len(np.unique(split(dumbbell, light * dumbbell))) == 3


def test_unity_of_contacts_by_hand():
    assert Contact(neck=1, dip=1, balance=1, solidity=1, size=1).unity == 1
    assert Contact(neck=0.5, dip=0.8, balance=0.5, solidity=0.9, size=1 / 16).unity == pytest.approx(0.36)


def test_background_is_taken_away_but_nuclei_stay():
    ramp = np.linspace(0, 60, 400, dtype=np.float32) * np.ones((200, 1), np.float32)
    nucleus = discs((200, 400), [(100, 300, WIDTH / 2)])
    light = subtract_background(ramp + nucleus)
    assert light[100, 300] == pytest.approx(100, abs=10)
    assert np.abs(light[:40, 80:320]).max() < 12


def test_unmix_takes_out_what_shines_into_blue(three_cells):
    image = reduce(three_cells[0], 1)
    mixed = image.copy()
    mixed[..., 2] += 0.3 * (image[..., 0] + image[..., 3])
    assert np.abs(unmix(mixed) - image[..., 2]).max() < 3
    assert (unmix(image) == image[..., 2]).mean() > 0.99


def test_stain_is_one_beside_nuclei_and_zero_in_the_background(three_cells):
    image = reduce(three_cells[0], 0.5) + 9
    nuclei = image[..., 2] > 50
    light = stain(image, nuclei)
    assert light[~nuclei & (light > 0.05)].max() < 3
    assert abs(np.median(light[:, :10])) < 0.02
    assert background(image[..., 0], 60.0) == pytest.approx(9, abs=1)


def test_the_threshold_stays_above_noise():
    light = rng(3, "noise").normal(0, 0.2, (200, 200)).astype(np.float32)
    light[50:150, 50:150] += 1
    mask = foreground(light)
    assert mask[55:145, 55:145].mean() > 0.99
    assert mask[:40].mean() < 0.01


def test_best_overlaps_by_hand():
    truth = np.array([[1, 1, 1, 1, 3, 3]])
    found = np.array([[2, 2, 2, 5, 5, 0]])
    assert best_overlaps(truth, found) == pytest.approx([3 / 4, 1 / 3])
    assert best_overlaps(truth, found * 0).tolist() == [0, 0]
    assert agree(truth, found) == (2, 2, 1, pytest.approx(3 / 4 + 1 / 3))


def test_half_visible_cells_stay_in_a_crop():
    labels = np.array([[1, 1, 2, 2, 2, 3]])
    assert keep_halves(labels, labels[:, 1:4]).tolist() == [[1, 2, 2]]
    assert keep_halves(labels, labels[:, 4:]).tolist() == [[0, 3]]


@pytest.fixture(scope="module")
def real(real_data) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return real_images(real_data / "hpa")


def test_it_finds_the_segmentators_cells(real):
    total = measure(find_cells, real.values())[0]
    assert total.matched >= 0.95 * total.truth
    for image, truth in real.values():
        one = agree(truth, find_cells(image)[0])
        assert one.overlap / one.truth >= 0.85
        assert abs(one.found - one.truth) <= 0.1 * one.truth


@pytest.mark.slow
@pytest.mark.parametrize("change", ["x 0.25", "gain 0.1", "noise 12", "bleed 0.2", "12 % nuclei x 8"])
def test_it_finds_them_in_worse_images_too(real, change):
    total = measure(find_cells, (CHANGES[change](*labelled) for labelled in real.values()))[0]
    assert total.matched >= 0.95 * total.truth
    assert total.overlap >= 0.85 * total.truth
    assert abs(total.found - total.truth) <= 0.1 * total.truth


@pytest.mark.slow
def test_it_finds_them_in_a_crowd(real):
    cells = [cell for labelled in real.values() for cell in whole_cells(*labelled)]
    total = measure(find_cells, [crowd(cells, 0.6, seed=1, size=1400)])[0]
    assert total.truth > 25
    assert total.matched >= 0.9 * total.truth


def test_the_benchmark_prints_a_row_an_image(real_data, capsys):
    assert not main(["--data_dir", str(real_data / "hpa"), "--stress", "0"])
    assert len(capsys.readouterr().out.splitlines()) == 7
