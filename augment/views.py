"""The eight dihedral views of test-time augmentation: names on the command line and in folders -> flips of a batch."""

from common.errors import choose

# name -> (flip up-down, flip left-right, transpose), applied in this order
VIEWS: dict[str, tuple[bool, bool, bool]] = {
    "default": (False, False, False),
    "flipud": (True, False, False),
    "fliplr": (False, True, False),
    "transpose": (False, False, True),
    "flipud_lr": (True, True, False),
    "flipud_transpose": (True, False, True),
    "fliplr_transpose": (False, True, True),
    "flipud_lr_transpose": (True, True, True),
}


def parse_views(text: str, flag: str = "--augment") -> list[str]:
    """`all`, or view names joined by commas, as a list without repeats. flag: what they were given with.

    >>> parse_views("default,flipud")
    ['default', 'flipud']
    """
    names = list(VIEWS) if text == "all" else list(dict.fromkeys(text.split(",")))
    for name in names:
        choose(VIEWS, name, flag)
    return names


def apply_view(batch, view: str):
    """The view of a batch (..., height, width) of images: a torch tensor on any device."""
    flipud, fliplr, transpose = VIEWS[view]
    axes = [axis for axis, flip in ((-2, flipud), (-1, fliplr)) if flip]
    if axes:
        batch = batch.flip(axes)
    return batch.transpose(-2, -1) if transpose else batch


def undo_view(batch, view: str):
    """The inverse of `apply_view`, for maps that must lie on the image again."""
    flipud, fliplr, transpose = VIEWS[view]
    if transpose:
        batch = batch.transpose(-2, -1)
    axes = [axis for axis, flip in ((-2, flipud), (-1, fliplr)) if flip]
    return batch.flip(axes) if axes else batch
