"""Run lengths against a pixel by pixel version, by hand, and damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cells.rle import decode, decode_layers, encode, encode_labels
from common.errors import UserError


def slow_encode(mask: np.ndarray) -> str:
    words, length = [], 0
    for place, on in enumerate([*mask.ravel().tolist(), False], start=1):
        if on:
            length += 1
        elif length:
            words += [str(place - length), str(length)]
            length = 0
    return " ".join(words)


label_images = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.integers(0, 4),
)


@settings(max_examples=60, deadline=None)
@given(label_images)
def test_any_label_image_there_and_back(labels):
    texts = encode_labels(labels)
    assert texts == {label: slow_encode(labels == label) for label in np.unique(labels).tolist() if label}
    for label, text in texts.items():
        assert encode(labels == label) == text
        np.testing.assert_array_equal(decode(text, *labels.shape), labels == label)
    names = list(texts)
    layers = decode_layers(list(texts.values()), *labels.shape, [str(name) for name in names])
    assert len(layers) == 1
    np.testing.assert_array_equal(np.array([0, *names])[layers[0]], labels)


def test_a_run_goes_on_in_the_next_row():
    mask = np.array([[0, 0, 1], [1, 1, 0], [0, 0, 1]], bool)
    assert encode(mask) == "3 3 9 1"
    np.testing.assert_array_equal(decode("3 3 9 1", 3, 3), mask)


def test_an_empty_text_is_an_empty_mask():
    assert encode(np.zeros((2, 3), bool)) == ""
    assert not decode("", 2, 3).any()
    assert encode_labels(np.zeros((0, 3), np.int32)) == {}


def test_runs_in_any_order_are_the_same_mask():
    np.testing.assert_array_equal(decode("9 1 3 3", 3, 3), decode("3 3 9 1", 3, 3))
    np.testing.assert_array_equal(decode("3 1 4 2", 3, 3), decode("3 3", 3, 3))


def test_masks_over_each_other_stay_whole_in_layers():
    texts = ["1 3", "3 3", "4 3", "9 1"]
    layers = decode_layers(texts, 3, 3, ["a", "b", "c", "d"])
    assert [layer.ravel().tolist() for layer in layers] == [[1, 1, 1, 3, 3, 3, 0, 0, 4], [0, 0, 2, 2, 2, 0, 0, 0, 0]]
    for label, text in enumerate(texts, start=1):
        mask = sum((layer == label) for layer in layers)
        np.testing.assert_array_equal(mask, decode(text, 3, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "row 7 .*: 3 numbers are no run lengths"),
        ("8 3", "ends at pixel 10, but the image has 9 pixels"),
        ("99999999999999 1", "ends at pixel"),
        ("9" * 30 + " 1", "is not a pixel's number"),
        ("0 2", "a start or a length is 0"),
        ("3 0", "a start or a length is 0"),
        ("-1 2", "'-1' in the run lengths"),
        ("1 2.5", "'2.5' in the run lengths"),
        ("one 2", "'one' in the run lengths"),
        ("٣ 2", "is not a pixel's number"),
        ("1 3 3 2", "its runs overlap at pixel 3"),
        ("5 2 4 2", "its runs overlap at pixel 5"),
    ],
)
def test_damaged_text_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        decode(text, 3, 3, "row 7 (image)")
