"""Every number that decides how made-up HPA images look, in one place.

Lengths are pixels of a real 2048-pixel image, where a nucleus is about 175 pixels long ("scale 1"); an image with
smaller cells is drawn as if it were that image made smaller.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CellLine:
    """How the cells of one line grow. Pairs are the lowest and highest value; each image or cell draws its own."""

    share: float  # how often images are of this line, relative to the others
    area: float  # of a mean cell, pixels at scale 1
    nucleus: float  # area of a mean nucleus
    stretch: tuple[float, float]  # length : width of a cell
    corners: tuple[int, int]  # attachment points of a cell
    arc: tuple[float, float]  # how far the outline between two corners bends: < 0 inwards, > 0 outwards
    tails: float  # probability that a corner is drawn out into a process
    confluence: tuple[float, float]  # share of the image under cells
    clustering: float  # probability that a cell grows beside another one rather than anywhere
    lobed: float  # probability of an indented nucleus


CELL_LINES = {
    "osteosarcoma": CellLine(3.0, 130_000, 25_000, (1.0, 1.8), (4, 7), (-0.15, 0.1), 0.06, (0.45, 0.85), 0.3, 0.15),
    "glioma": CellLine(2.0, 150_000, 30_000, (1.2, 2.6), (3, 5), (-0.3, 0.0), 0.25, (0.45, 0.85), 0.2, 0.35),
    "epidermoid": CellLine(1.5, 110_000, 25_000, (1.0, 1.5), (5, 8), (-0.05, 0.15), 0.0, (0.5, 0.95), 0.8, 0.1),
    "kidney": CellLine(1.0, 80_000, 21_000, (1.0, 1.7), (4, 7), (-0.1, 0.12), 0.05, (0.4, 0.9), 0.8, 0.1),
    "fibroblast": CellLine(1.0, 190_000, 26_000, (1.8, 3.6), (3, 5), (-0.25, 0.0), 0.3, (0.4, 0.8), 0.1, 0.05),
    "islands": CellLine(1.0, 110_000, 25_000, (1.0, 1.4), (5, 8), (0.0, 0.18), 0.0, (0.12, 0.4), 0.95, 0.15),
}


@dataclass(frozen=True)
class Settings:
    """Probabilities and ranges of the whole generator."""

    # Cells
    fewest: int = 5  # cells of an image: where they have no room at scale 1 they are drawn smaller
    spread: float = 0.15  # log-normal variation between images of the size of cells
    binucleate: float = 0.05  # probability of a cell with two nuclei
    dim: float = 0.08  # probability of a cell that is weakly stained in every channel
    dividing: float = 0.012  # probability of a dividing cell where the image is not about the mitotic spindle
    visible: float = 0.5  # cells with no more of their area than this inside the image are not in the truth

    # Labels: a class of the image is shown by a share of its cells, drawn for each image
    everywhere: float = 0.12  # probability that all cells show a class of their image
    share: tuple[float, float] = (0.3, 0.9)  # else this share does
    spindles: tuple[int, int] = (1, 3)  # dividing cells of an image about the mitotic spindle

    # Light: grey levels (0..255) of well-stained places, drawn for each image
    red: tuple[float, float] = (50, 150)
    blue: tuple[float, float] = (55, 140)
    yellow: tuple[float, float] = (50, 130)
    green: tuple[float, float] = (50, 150)  # of a pattern's bright parts
    vary: float = 0.4  # log-normal variation of a pattern's strength between the cells of an image
    haze: tuple[float, float] = (1.0, 14.0)  # unspecific staining of every cell in green, more or less in its nucleus
    ghost: float = 0.3  # probability that all cells faintly show a class that no label mentions
    ghostly: tuple[float, float] = (0.03, 0.1)  # strength of that class
    blur: tuple[float, float] = (0.9, 1.5)  # standard deviation of the microscope's point spread
    shot: tuple[float, float] = (0.7, 2.0)  # variance of the noise for each grey level
    vignette: tuple[float, float] = (0.0, 0.35)  # loss of light in the farthest corner
    specks: float = 5.0  # mean number of bits of dirt in an image's green channel


SETTINGS = Settings()
