"""Crops, the crop store and its PNGs: nothing is lost, equal bytes, damage is named."""

import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cells.crops import boxes, cut_cell, narrow, resize
from cells.store import Store, decode_png, encode_png, read_image_png, write_image_png, write_shard
from common.errors import UserError

images = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(4)))
)


@settings(max_examples=60, deadline=None)
@given(images)
def test_png_loses_nothing_and_keeps_the_channels_order(image):
    back = decode_png(encode_png(image), "x")
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)


def test_png_refuses_other_shapes():
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 4), np.float32)):
        with pytest.raises(ValueError, match="4 channels"):
            encode_png(image)


def test_cut_cell_by_hand():
    labels = np.array([[0, 0, 0, 0], [5, 5, 5, 5], [0, 0, 5, 7]])
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)[..., None] + np.array([1, 50, 100, 150], np.uint8)
    assert boxes(labels) == {5: (0, 1, 4, 3), 7: (3, 2, 4, 3)}
    crop = cut_cell(image, labels, 5, (0, 1, 4, 3))
    assert crop[..., 0].tolist() == [[0, 0, 0, 0], [5, 6, 7, 8], [0, 0, 11, 0], [0, 0, 0, 0]]
    assert (crop[1, 0] - crop[1, 0, 0]).tolist() == [0, 49, 99, 149]


def test_odd_padding_goes_right_and_below():
    labels = np.ones((1, 4), int)
    crop = cut_cell(np.full((1, 4, 4), 9, np.uint16), labels, 1, (0, 0, 4, 1))
    assert crop.dtype == np.uint16
    assert crop[..., 3].tolist() == [[0] * 4, [9] * 4, [0] * 4, [0] * 4]


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)))
def test_each_pixel_is_in_the_crop_of_its_cell(labels):
    image = np.random.default_rng(0).integers(1, 256, (*labels.shape, 4)).astype(np.uint8)
    for label, box in boxes(labels).items():
        crop = cut_cell(image, labels, label, box)
        assert crop.shape[0] == crop.shape[1] == max(box[2] - box[0], box[3] - box[1])
        np.testing.assert_array_equal(crop[crop.any(axis=2)], image[labels == label])


@pytest.mark.parametrize("shape", [(100, 60), (10, 100), (16, 16), (1, 1), (7, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resize_to_any_size(shape, dtype):
    flat = np.full((*shape, 4), 200, dtype) + np.arange(4, dtype=dtype)
    small = resize(flat, 16)
    assert small.shape == (16, 16, 4) and small.dtype == dtype
    assert (small == flat[0, 0]).all()


def test_resize_shrinks_by_area():
    stripes = np.zeros((32, 32, 4), np.uint8)
    stripes[:, ::2] = 200
    assert (resize(stripes, 16) == 100).all()
    stripes = stripes[:8]
    assert (resize(stripes, 16) == 100).all()  # the other axis grows


def test_narrow_is_exact():
    eight = np.random.default_rng(0).integers(0, 256, (9, 9, 4)).astype(np.uint8)
    eight[0, 0] = 0, 255, 1, 254
    sixteen = eight.astype(np.uint16) * 257
    np.testing.assert_array_equal(narrow(sixteen), eight)
    assert narrow(sixteen).dtype == np.uint8
    assert narrow(eight) is eight
    sixteen[3, 3, 3] += 1
    assert narrow(sixteen) is sixteen


def crops(dtype=np.uint8) -> dict[int, np.ndarray]:
    random = np.random.default_rng(1)
    top = np.iinfo(dtype).max + 1
    return {cell: random.integers(0, top, (side, side, 4)).astype(dtype) for cell, side in ((2, 9), (10, 30))}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_store_gives_back_what_was_written(tmp_path, dtype):
    write_shard(tmp_path / "b.zip", crops(dtype))
    write_shard(tmp_path / "a.zip", {})
    store = Store(tmp_path)
    assert store.images() == ["a", "b"]
    assert store.cells("a") == [] and store.cells("b") == [2, 10]
    for cell, crop in crops(dtype).items():
        np.testing.assert_array_equal(store.read("b", cell, raw=True), crop)
        seen = store.read("b", cell)
        assert seen.dtype == np.uint8
        expected = crop if dtype == np.uint8 else np.round(crop / 257)
        np.testing.assert_array_equal(seen, expected)
        assert store.read("b", cell, size=17).shape == (17, 17, 4)


def test_equal_crops_give_equal_bytes(tmp_path):
    write_shard(tmp_path / "one.zip", crops())
    write_shard(tmp_path / "two.zip", dict(reversed(crops().items())))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_shards_are_plain_zips(tmp_path):
    write_shard(tmp_path / "a.zip", crops())
    with zipfile.ZipFile(tmp_path / "a.zip") as shard:
        assert shard.testzip() is None
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in shard.infolist())


def test_failed_write_leaves_nothing(tmp_path):
    write_shard(tmp_path / "a.zip", crops())
    before = (tmp_path / "a.zip").read_bytes()
    with pytest.raises(ValueError, match="4 channels"):
        write_shard(tmp_path / "a.zip", {1: np.zeros((3, 3), np.uint8)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == before


def test_store_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        Store(tmp_path / "nowhere")
    write_shard(tmp_path / "a.zip", crops())
    store = Store(tmp_path)
    with pytest.raises(UserError, match=r"missing\.zip"):
        store.cells("missing")
    with pytest.raises(UserError, match=r"a\.zip holds no cell 3"):
        store.read("a", 3)
    with pytest.raises(UserError, match="cannot be a file name"):
        store.read("../a", 2)


def test_damage_anywhere_in_a_shard_is_found(tmp_path):
    path = tmp_path / "a.zip"
    write_shard(path, {1: crops()[2]})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            cell = Store(tmp_path).read("a", 1, raw=True)
        except UserError as error:
            assert "a.zip" in str(error)
        else:
            np.testing.assert_array_equal(cell, crops()[2])  # a byte that says nothing, such as a time
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.zip"):
            Store(tmp_path).read("a", 1)


def test_foreign_files_in_a_shard(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as shard:
        shard.writestr("notes.txt", "x")
        shard.writestr("1.png", b"no picture")
    with pytest.raises(UserError, match="other files"):
        Store(tmp_path).cells("a")
    with pytest.raises(UserError, match=r"1\.png in .*a\.zip is not a readable PNG"):
        Store(tmp_path).read("a", 1)


def test_resized_images(tmp_path):
    image = crops()[10]
    write_image_png(tmp_path / "deep" / "a.png", image)
    np.testing.assert_array_equal(read_image_png(tmp_path / "deep" / "a.png"), image)
    with pytest.raises(UserError, match=r"b\.png"):
        read_image_png(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "deep" / "a.png").read_bytes()[:-30])
    (tmp_path / "d.png").write_bytes(b"")
    for name in ("c", "d"):
        with pytest.raises(UserError, match=rf"{name}\.png is not a readable PNG"):
            read_image_png(tmp_path / f"{name}.png")


def test_three_channels_are_a_colour_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_image_png(tmp_path / "a.png", image)
    assert np.array_equal(read_image_png(tmp_path / "a.png"), image)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], image)
    write_shard(tmp_path / "a.zip", {1: image})
    assert np.array_equal(Store(tmp_path).read("a", 1), image)
