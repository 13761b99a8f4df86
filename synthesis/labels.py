"""Which classes an image draws, and which of them each of its cells shows.

Frequencies and what occurs together are those of the competition's 21,806 training images: how often each class and
each number of classes occurs, and the lift of pairs (how much more often than by chance two classes share an image).
"""

import numpy as np

from synthesis.cells import Cell
from synthesis.patterns import AT_NUCLEUS, IN_DIVISION, PATTERNS
from synthesis.settings import Settings

NEGATIVE, SPINDLE, MEMBRANE = 18, 11, 13
COUNTS = np.array(
    [8797, 1095, 2451, 1262, 1425, 1792, 775, 1846, 964, 998, 818, 78, 1734, 3111, 2013, 252, 5685, 593, 34], float
)
HOW_MANY = np.array([10508, 8873, 2425]) / 21806  # images with 1, 2, 3 (or more) classes
BALANCES = ("flat", "natural")

USUAL_LIFT = 0.3  # most compartments avoid each other; these pairs do not
LIFTS = {
    (0, 1): 1.2, (0, 2): 1.1, (0, 3): 0.9, (0, 4): 0.1, (0, 5): 0.9, (0, 6): 0.2, (0, 7): 1.0, (0, 8): 0.6, (0, 9): 0.8,
    (0, 10): 0.5, (0, 11): 1.0, (0, 12): 1.0, (0, 13): 0.9, (0, 14): 0.7, (0, 15): 0.6, (0, 16): 1.1, (0, 17): 0.8,
    (16, 1): 0.7, (16, 2): 0.9, (16, 3): 0.7, (16, 4): 0.7, (16, 5): 0.8, (16, 6): 0.6, (16, 7): 0.5, (16, 8): 0.5,
    (16, 9): 0.9, (16, 10): 0.6, (16, 11): 1.5, (16, 12): 0.9, (16, 13): 1.0, (16, 15): 0.7, (16, 17): 0.5,
    (10, 11): 7.5, (9, 13): 1.5, (11, 12): 1.5, (11, 13): 1.1, (5, 15): 1.4, (8, 15): 1.4, (1, 2): 1.0, (2, 14): 0.7,
    (2, 6): 0.7, (2, 7): 0.6, (2, 10): 0.6, (2, 13): 0.6, (4, 13): 0.7, (9, 12): 0.5, (12, 13): 0.5, (2, 3): 0.0,
    (6, 14): 0.0, (7, 14): 0.0, (10, 14): 0.0,
}  # fmt: skip


def image_classes(rng: np.random.Generator, deck: list[int], place: int, balance: str) -> list[int]:
    """The classes of one image, sorted. `deck`: the 19 classes shuffled, of which a flat set deals one an image."""
    weights = COUNTS if balance == "natural" else np.sqrt(COUNTS)
    first = int(rng.choice(len(COUNTS), p=COUNTS / COUNTS.sum())) if balance == "natural" else deck[place]
    classes = [first]
    if first == NEGATIVE:
        return classes
    for _ in range(int(rng.choice(3, p=HOW_MANY))):
        chance = weights * np.prod([_lift(first) for first in classes], axis=0)
        chance[[NEGATIVE, *classes]] = 0
        classes.append(int(rng.choice(len(COUNTS), p=chance / chance.sum())))
    return sorted(classes)


def _lift(known: int) -> np.ndarray:
    return np.array([LIFTS.get((known, other), LIFTS.get((other, known), USUAL_LIFT)) for other in range(len(COUNTS))])


def cell_classes(
    rng: np.random.Generator, classes: list[int], able: dict[int, np.ndarray], counted: np.ndarray, settings: Settings
) -> list[list[int]]:
    """For each cell the classes that it shows, sorted; [18] (Negative) when it shows none.

    able: for each class the cells that can show it; counted: the cells in the truth; arrays (N,) bool. Every class that
    any counted cell can show is shown by at least one; a class that none can show is shown by no cell.
    """
    shown = np.zeros((len(counted), NEGATIVE), bool)
    for index in classes:
        if index == NEGATIVE:
            continue
        share = 1.0 if rng.random() < settings.everywhere or index == SPINDLE else rng.uniform(*settings.share)
        shown[:, index] = able[index] & (rng.random(len(counted)) < share)
        possible = np.flatnonzero(able[index] & counted)
        if not len(possible):
            shown[:, index] = False
        elif not shown[possible, index].any():
            shown[rng.choice(possible), index] = True
    return [np.flatnonzero(row).tolist() or [NEGATIVE] for row in shown]


def able_cells(cells: list[Cell]) -> dict[int, np.ndarray]:
    """For each class which of the cells can show it: a dividing cell has no nucleus, a cut one may have lost it."""
    dividing = np.array([cell.dividing for cell in cells], bool)
    centred = np.array([cell.centred for cell in cells], bool)
    able = {}
    for index in PATTERNS:
        stage = dividing if index == SPINDLE else ~dividing | (index in IN_DIVISION)
        able[index] = stage & (centred | (index not in AT_NUCLEUS))
    return able
