"""Mask text against pycocotools, by hand, and damaged."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from cells.masks import decode_mask, decode_rle, encode_label_image, encode_mask
from common.errors import UserError


def plain(mask: np.ndarray) -> str:
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return base64.b64encode(zlib.compress(counts, 9)).decode()


def pack(counts: bytes) -> str:
    return base64.b64encode(zlib.compress(counts)).decode()


def check(labels: np.ndarray) -> None:
    texts = encode_label_image(labels)
    assert list(texts) == [label for label in np.unique(labels).tolist() if label]
    for label, text in texts.items():
        assert text == plain(labels == label) == encode_mask(labels == label)
        np.testing.assert_array_equal(decode_mask(text, *labels.shape), labels == label)


label_images = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    elements=st.integers(0, 5),
    fill=st.integers(0, 5),
)


@settings(max_examples=200, deadline=None)
@given(label_images)
def test_any_label_image_equals_pycocotools(labels):
    check(labels)


@settings(max_examples=30, deadline=None)
@given(label_images, st.integers(1, 60), st.integers(1, 60))
def test_long_runs_equal_pycocotools(labels, down, across):
    check(np.kron(labels, np.ones((down, across), labels.dtype)))


@pytest.mark.parametrize(
    "labels",
    [
        [[1]],
        [[0]],
        [[7, 7], [7, 7]],  # the whole image: no background after it
        [[0, 3], [3, 0]],  # one run that wraps from the bottom of a column to the top of the next
        [[1, 2], [1, 2]],  # touches top and bottom; runs wrap into the next cell's
        [[1, 0, 1, 0, 1]],
        [[300], [0], [300], [2]],
        [[70000, 0], [0, 65536]],
    ],
)
def test_special_label_images(labels):
    check(np.array(labels))


def test_columns_of_a_view_that_is_not_contiguous():
    labels = np.random.default_rng(0).integers(0, 3, (40, 60))
    check(labels[::2, ::3])
    check(labels.T)


def test_big_image_needs_long_numbers():
    labels = np.zeros((3000, 2100), np.int32)
    labels[5, 0] = labels[2999, 2099] = 1  # a gap of millions of pixels, and back
    labels[100:900, 300:800] = 2
    labels[1200, 700:] = 259
    check(labels)


def test_hand_worked_text():
    mask = np.array([[0, 0], [1, 0], [1, 0]], bool)  # column by column: 1 off, 2 on, 3 off
    text = encode_mask(mask)
    assert zlib.decompress(base64.b64decode(text)) == b"123"
    assert decode_rle(text, 3, 2) == {"size": [3, 2], "counts": b"123"}
    assert coco.area(decode_rle(text, 3, 2)) == 2


def test_empty_mask_has_a_text():
    text = encode_mask(np.zeros((30, 20), bool))
    assert text == plain(np.zeros((30, 20)))
    assert not decode_mask(text, 30, 20).any()
    assert encode_label_image(np.zeros((30, 20), np.int32)) == {}


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_text_of_another_size_is_refused(mask):
    with pytest.raises(UserError, match="does not fit"):
        decode_mask(encode_mask(mask), mask.shape[0] + 1, mask.shape[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        "é",
        "AAAA",  # base64 of no zlib stream
        encode_mask(np.eye(9))[:-8],  # cut off
        pack(b""),
        pack(b"\x00\xff"),  # no COCO characters
        pack(b"12P"),  # ends within a number
        pack(b"PPPPPPPPPPPPPPPP0"),  # a number of 80 bits
        pack(b"1N3"),  # a negative run
        pack(b"123") + "AAAA",
        base64.b64encode(zlib.compress(b"123") + b"more").decode(),
    ],
)
def test_damaged_text_is_refused(text):
    with pytest.raises(UserError, match="mask text"):
        decode_mask(text, 3, 2)


def test_small_text_cannot_claim_gigabytes():
    with pytest.raises(UserError, match="longer than any mask"):
        decode_mask(pack(b"0" * 50_000_000), 64, 64)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_noise_is_a_mask_or_a_user_error(noise):
    try:
        mask = decode_mask(pack(noise), 5, 7)
    except UserError:
        return
    assert mask.shape == (5, 7) and mask.dtype == bool


def test_adversarial_masks_stay_within_the_limit():
    for shape in [(1, 1), (1, 2), (3, 1), (64, 65)]:
        checks = np.indices(shape).sum(0) % 2
        for mask in (checks, 1 - checks, np.ones(shape), np.random.default_rng(1).integers(0, 2, shape)):
            np.testing.assert_array_equal(decode_mask(plain(mask), *shape), mask.astype(bool))
