"""Made-up H&E tiles of PanNuke: nuclei of five types in tissue, as three folds of arrays.

Types differ as in sections: neoplastic nuclei are large, uneven, with nucleoli; inflammatory ones small, round, dark;
connective ones slender, along the fibres; dead ones shrunken, black, in a red cell; epithelial ones even and pale.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.files import atomic
from common.seeds import rng
from competitions import pannuke_files
from synthesis import pictures
from synthesis.channels import smooth_noise
from synthesis.pictures import Request, bleach, density, fill, outline, rim, stain

VERSION = 1  # of the drawing: images of another version are not mixed with these
COUNTS = {"train": 60}  # tiles, which are dealt over the folds
SIZE, BALANCE = "256", "natural"
FOLDS = 3
OUTPUTS = tuple(f"fold{fold}" for fold in range(1, FOLDS + 1))
USUAL = 189_744 / 7_901 / 256**2  # nuclei a pixel of the real tiles
EMPTY = 0.05  # share of tiles without a nucleus
TISSUES = {
    "Breast": 2351, "Colon": 1440, "Bile-duct": 420, "Esophagus": 424, "Uterus": 186, "Lung": 184, "Cervix": 293,
    "HeadNeck": 384, "Skin": 187, "Adrenal_gland": 437, "Kidney": 134, "Stomach": 146, "Prostate": 182, "Testis": 196,
    "Liver": 224, "Thyroid": 226, "Pancreatic": 195, "Ovarian": 146, "Bladder": 146,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a type looks; lengths in pixels at 40x, pairs are bounds."""

    count: int  # in the real data set
    radius: float  # median
    spread: float  # of the radius, log-normal
    stretch: tuple[float, float]
    dark: tuple[float, float]  # density of the nucleus
    rough: float  # how irregular it is
    coarse: float  # contrast of the chromatin
    rim: float = 0.1  # how much denser its edge is
    nucleoli: float = 0.0  # expected number
    body: float = 0.0  # radius of a cytoplasm of its own, in nuclear radii
    rows: float = 0.0  # chance to lie beside another nucleus of the type


LOOKS = {
    "Neoplastic": Look(77_403, 10.5, 0.2, (1.0, 1.7), (0.5, 1.0), 0.08, 0.26, 0.2, 0.9, 1.7, 0.5),
    "Inflammatory": Look(32_276, 6.0, 0.14, (1.0, 1.3), (0.9, 1.4), 0.05, 0.22, rows=0.4),
    "Connective": Look(50_585, 6.3, 0.2, (2.0, 5.0), (0.6, 1.2), 0.06, 0.14),
    "Dead": Look(2_908, 5.6, 0.25, (1.0, 1.5), (1.3, 1.9), 0.13, 0.04, body=1.9),
    "Epithelial": Look(26_572, 8.5, 0.13, (1.1, 1.9), (0.45, 0.85), 0.04, 0.2, 0.3, 0.2, 1.6, 0.75),
}
CLASSES = tuple(LOOKS)
CHROMATIN, PINK, MAUVE, RED = (
    density(*rgb) for rgb in ((112, 78, 164), (240, 184, 212), (214, 178, 216), (236, 140, 160))
)
ERYTHROCYTE = density(238, 130, 110)


@dataclass
class Section:
    """A tile that is being drawn: optical density, noises to take textures from, and its truth."""

    draw: np.random.Generator
    canvas: np.ndarray
    labels: np.ndarray  # uint16, 0 = no nucleus
    noises: dict[str, np.ndarray]
    fibres: float  # their direction, radians
    holes: np.ndarray  # bool: no tissue here


@dataclass
class Tile:
    """One tile: uint8 RGB, its nuclei as a label image (uint16), and the class number of nucleus 1, 2, ..."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: list[int]


def tissue_of(request: Request, index: int) -> str:
    """The tissue of a tile, as often as in the real data set (or each alike)."""
    shares = pictures.frequencies(TISSUES.values(), request.balance)
    return str(rng(request.seed, "train", index, "tissue").choice(list(TISSUES), p=shares))


def image_files(out_dir: Path, request: Request, split: str, index: int) -> list[Path]:
    """The files of one tile until the folds are put together: the picture, and 8 x nucleus + class as 16 bits."""
    folder = Path(out_dir) / ".parts" / split
    return [folder / f"{index:06d}.png", folder / f"{index:06d}_nuclei.png"]


def write_image(out_dir: Path, request: Request, split: str, index: int) -> None:
    """Draw one tile and write its parts."""
    tile = draw_image(request, split, index)
    picture, nuclei = image_files(out_dir, request, split, index)
    pictures.write_picture(picture, tile.pixels)
    codes = np.array([0, *(8 * number + kind for number, kind in enumerate(tile.classes, start=1))], np.uint16)
    pictures.write_picture(nuclei, codes[tile.labels])


def write_tables(out_dir: Path, request: Request, counts: dict[str, int]) -> dict[str, int]:
    """Put the tiles together as fold<k>/images.npy, masks.npy and types.npy; gives the number of nuclei.

    Tile i is in fold i mod 3 + 1. images: (N, height, width, 3) uint8. masks: (N, height, width, 6) uint16, the
    nuclei's numbers (unique in the tile) in the channel of their class, then 1 where there is none. A tile at a time
    is in memory. (The real arrays hold the same whole numbers as float64, in eight and four times the space.)
    """
    total, shape = 0, (request.height, request.width)
    for fold in range(FOLDS):
        tiles = range(fold, counts["train"], FOLDS)
        folder = Path(out_dir) / OUTPUTS[fold]
        files = [image_files(out_dir, request, "train", index) for index in tiles]
        images = (cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path, _ in files)
        pannuke_files.write_array(folder / "images.npy", np.uint8, (len(tiles), *shape, 3), images)
        masks = (_channels(_read_codes(path)) for _, path in files)
        pannuke_files.write_array(folder / "masks.npy", np.uint16, (len(tiles), *shape, len(CLASSES) + 1), masks)
        with atomic(folder / "types.npy") as temporary:
            np.save(temporary, np.array([tissue_of(request, index) for index in tiles], dtype="<U13"))
        total += sum(int(_read_codes(path).max()) // 8 for _, path in files)
    return {"train": total}


def _read_codes(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def _channels(codes: np.ndarray) -> np.ndarray:
    """A tile's nuclei as the six channels of masks.npy."""
    channels = [np.where(codes % 8 == kind, codes // 8, 0) for kind in range(1, len(CLASSES) + 1)]
    return np.stack([*channels, codes == 0], axis=-1).astype(np.uint16)


def draw_image(request: Request, split: str, index: int) -> Tile:
    """Draw one tile. It depends on nothing but the arguments."""
    draw = rng(request.seed, split, index)
    height, width = request.height, request.width
    sizes = {"fine": 0.9, "mid": 2.2, "patch": 7.0, "wide": 45.0}
    noises = {name: smooth_noise(draw, height, width, sigma) for name, sigma in sizes.items()}
    canvas, labels = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint16)
    empty = not request.cells and draw.random() < EMPTY
    share = draw.uniform(0.3, 1.0) if empty else max(0.0, draw.uniform(-0.35, 0.35))
    holes = noises["wide"] + 0.15 * noises["patch"] < np.quantile(noises["wide"], share) - (share == 0)
    section = Section(draw, canvas, labels, noises, draw.uniform(0, np.pi), holes)
    _draw_ground(section)
    classes = [] if empty else _draw_nuclei(section, request)
    canvas *= draw.uniform(0.75, 1.3) * draw.uniform(0.88, 1.14, 3)  # laboratories stain differently
    light = np.array([246, 244, 247]) - draw.uniform(0, 10, 3)
    pixels = pictures.expose(draw, canvas, light, draw.uniform(0.4, 1.1), draw.uniform(1.0, 3.0))
    return Tile(pixels, section.labels, classes)


def _draw_ground(section: Section) -> None:
    """Stroma of wavy fibres or cells' bodies, lumens, some red cells, and nuclei far out of focus (without truth)."""
    draw, noises, (height, width) = section.draw, section.noises, section.labels.shape
    fibres = _fibres(section)
    strength = draw.uniform(0.05, 0.3)
    ground = draw.uniform(0.7, 1.2) + strength * fibres + 0.15 * noises["patch"] + 0.1 * noises["fine"]
    ground *= 1 - 0.93 * cv2.GaussianBlur(section.holes.astype(np.float32), (0, 0), 1.2)
    gaps = np.exp(-((fibres + draw.uniform(0.8, 2.6)) ** 2) * np.float32(12))  # between the fibres
    cellular = draw.beta(0.6, 1.2)
    section.canvas += (np.maximum(ground, 0) * (1 - 0.8 * gaps))[..., None] * (cellular * MAUVE + (1 - cellular) * PINK)
    for _ in range(draw.poisson(3 * height * width / 256**2)):
        contour = outline(draw, draw.uniform(6, 11), draw.uniform(1, 2.5)) + draw.uniform(0, (width, height))
        ghost = fill(contour, section.labels.shape, draw.uniform(2.5, 5))
        stain(section.canvas, ghost.place, draw.uniform(0.15, 0.45) * ghost.alpha, CHROMATIN)
    for _ in range(draw.poisson(draw.gamma(0.25, 14) * height * width / 256**2)):
        middle = draw.uniform(0, (width, height))
        patch = fill(outline(draw, draw.uniform(4.5, 6), draw.uniform(1, 1.8)) + middle, section.labels.shape, 0.8)
        stain(section.canvas, patch.place, draw.uniform(0.5, 0.9) * patch.alpha, ERYTHROCYTE)


def _fibres(section: Section) -> np.ndarray:
    """Noise that is long in the direction of the fibres and bends with them; mean 0, standard deviation about 1."""
    draw, (height, width) = section.draw, section.labels.shape
    side = int(np.hypot(height, width)) + 24
    grain = draw.standard_normal((side, side), np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), sigmaX=16, sigmaY=draw.uniform(1.0, 2.2))
    y, x = np.indices((height, width), np.float32) - np.float32([[[height / 2]], [[width / 2]]])
    cos, sin = np.cos(section.fibres), np.sin(section.fibres)
    across = y * cos - x * sin + 9 * section.noises["wide"]
    along = x * cos + y * sin + side / 2
    maps = (along.astype(np.float32), (across + side / 2).astype(np.float32))
    grain = cv2.remap(grain, *maps, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT)
    return grain / grain.std()


def _draw_nuclei(section: Section, request: Request) -> list[int]:
    """Draw a tile's nuclei; gives their classes (1..5) in the order of their numbers."""
    draw, (height, width) = section.draw, section.labels.shape
    count = pictures.how_many(draw, request, USUAL / (1 - EMPTY) * height * width, 0.5)
    shares = pictures.frequencies((look.count for look in LOOKS.values()), request.balance)
    kinds = draw.choice(len(CLASSES), count, p=draw.dirichlet(2 * shares + 1e-3)).tolist()
    classes: list[int] = []
    placed: list[tuple[np.ndarray, float, int]] = []
    for kind in kinds:
        look = LOOKS[CLASSES[kind]]
        radius = look.radius * draw.lognormal(0, look.spread)
        middle = _free_point(section, placed, radius, kind, look.rows)
        placed.append((middle, radius, kind))
        if _draw_nucleus(section, look, middle, radius, len(classes) + 1):
            classes.append(kind + 1)
    return classes


def _free_point(section: Section, placed: list, radius: float, kind: int, rows: float) -> np.ndarray:
    """Where a nucleus lies in tissue and touches no other one, if found soon; in `rows` beside one of its kind."""
    draw, size = section.draw, np.array(section.labels.shape[::-1])
    mates = [(middle, other) for middle, other, same in placed if same == kind] if draw.random() < rows else []
    for _ in range(25):
        spot = draw.uniform(-0.5 * radius, size + 0.5 * radius)
        if mates:
            middle, other = mates[draw.integers(len(mates))]
            turn, far = draw.uniform(0, 2 * np.pi), (radius + other) * draw.uniform(1.1, 1.5)
            spot = middle + far * np.array([np.cos(turn), np.sin(turn)])
        x, y = np.clip(spot, 0, size - 1).astype(int)
        if (spot < -0.5 * radius).any() or (spot > size + 0.5 * radius).any() or section.holes[y, x]:
            continue
        if all(np.hypot(*(spot - middle)) > 1.1 * (radius + other) for middle, other, _ in placed):
            return spot
    return spot


def _draw_nucleus(section: Section, look: Look, middle: np.ndarray, radius: float, number: int) -> bool:
    """Draw a nucleus and mark it in the truth; False (and nothing drawn) when hardly any of it would be seen."""
    draw, shape = section.draw, section.labels.shape
    slender = look.stretch[0] >= 2
    angle = section.fibres + draw.normal(0, 0.25) if slender else draw.uniform(0, np.pi)
    contour = outline(draw, radius, draw.uniform(*look.stretch), angle, look.rough) + middle
    patch = fill(contour, shape, draw.uniform(0.5, 1.0))
    if patch is None:
        return False
    free = (patch.alpha > 0.5) & (section.labels[patch.place] == 0)
    if free.sum() < 12:
        return False
    section.labels[patch.place][free] = number
    if look.body:
        body = fill(outline(draw, look.body * radius, draw.uniform(1, 1.4), angle, 0.1) + middle, shape, 1.5)
        dead = look.dark[0] > 1.2
        bleach(section.canvas, body, 0.5)
        amount = draw.uniform(0.5, 1.1) * body.alpha * (1 + 0.2 * section.noises["patch"][body.place])
        stain(section.canvas, body.place, amount, RED if dead else MAUVE)
    bleach(section.canvas, patch, 0.5)
    contrast = look.coarse * draw.lognormal(0, 0.35)
    chromatin = 1 + contrast * (section.noises["mid"][patch.place] + 0.5 * section.noises["fine"][patch.place])
    amount = draw.uniform(*look.dark) * (patch.alpha * np.maximum(chromatin, 0.3) + look.rim * rim(patch, 1.3))
    stain(section.canvas, patch.place, amount, CHROMATIN * draw.uniform(0.92, 1.08, 3))
    for spot in middle + draw.normal(0, 0.3 * radius, (draw.poisson(look.nucleoli), 2)):
        nucleolus = fill(outline(draw, radius * draw.uniform(0.14, 0.24)) + spot, shape, 0.7)
        if nucleolus is not None:
            stain(section.canvas, nucleolus.place, 0.7 * nucleolus.alpha, CHROMATIN)
    return True
