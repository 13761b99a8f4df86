"""Look at the data and at what the models make of it: six kinds of pictures.

    python visualize.py analysis --competition riva --metadata DATA/train.csv --root_dir DATA/images --out_path PICS
    python visualize.py overlays --metadata DATA/sample_submission.csv --root_dir DATA/test \\
        --cell_meta_csv_path META/sample_submission_cell.csv --probabilities OUT/ensemble_x.csv --out_path PICS
    python visualize.py contact_sheet --cell_meta_csv_path META/sample_submission_cell.csv --crop_dir CROPS/test \\
        --probabilities OUT/ensemble_x.csv --truth DATA/truth.csv --out_path PICS
    python visualize.py cams --checkpoint RESULTS/models/Image_Focal/fold0/best.pth --img_dir IMGS/test --out_path PICS
    python visualize.py misses --root_dir DATA/test --cell_meta_csv_path META/sample_submission_cell.csv \\
        --probabilities OUT/ensemble_x.csv --truth DATA/truth.csv --out_path PICS
    python visualize.py curves RESULTS/models/Cell_BCE/fold0 RESULTS/models/Image_Focal/fold0 --out_path PICS

analysis: `analysis.png` and `analysis.csv`, how many cells of each class, how uneven, how large, and the images' sizes;
of hpa the labels of images. overlays: `overlay_<ImageID>.png`, an image with its cells (masks or boxes) in the colour
of their top class; dropped cells grey and dashed. With --truth the true cells are dashed among them, or with --beside
in a second picture (of hpa their classes stand beside the found ones'); --truth without a cells table draws the true
cells alone.
contact_sheet: `sheet_<class>.png`, the cells of highest probability of each class, of hpa also the protein alone, and
with --checkpoint the class activation map of that model.
cams: `cams_<ImageID>.png`, where a model of whole images (PuzzleCAM too) sees the likeliest classes of an image.
misses: `misses_wrong.png`, the cells most confident in a class that they do not have; `misses_false.png`, the finds
that are no true cell (of hpa they are among the wrong); `misses_overlooked.png`, the true cells that were not found, or
whose class got the least; `misses.csv`, all of them. curves: `curves.png`, the logs of several runs of train.py in one.

Without --probabilities the finder's own score and Label are shown, where the cells table has them; with them, the score
times the probability. --truth is what train.csv is to the competition; of hpa a table of true cells (matched by mask)
or train.csv; --submission (hpa) may stand in place of --probabilities. Green text or frame: true; red: not; white or
grey: not known.
"""

import argparse
from collections.abc import Sequence

import competitions
from common.errors import run
from common.files import sole_writer
from pictures.analysis import analysis
from pictures.contact_sheets import contact_sheet
from pictures.curves import curves
from pictures.image_cams import image_cams
from pictures.misses import misses
from pictures.overlays import overlays

# What each mode calls, how many images or cells it shows, and at how many pixels.
MODES = {
    "overlays": (overlays, 12, 1024), "contact_sheet": (contact_sheet, 20, 176), "misses": (misses, 24, 240),
    "cams": (image_cams, 12, 320), "curves": (curves, None, None), "analysis": (analysis, None, None),
}  # fmt: skip


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True, metavar="{" + ",".join(MODES) + "}")
    for name, (_, limit, size) in MODES.items():
        own = modes.add_parser(name, help="see above")
        own.add_argument("--out_path", required=True, help="folder to write the pictures to")
        if name == "curves":
            own.add_argument("logs", nargs="+", help="log.csv files of train.py, or their folders")
            own.add_argument("--names", nargs="+", help="what to call the runs; default: their folders")
            own.add_argument("--score", help="column of the logs to draw; default: mAP, mPQ, macro_f1 or pr_auc")
            continue
        competitions.add_flags(own)
        if name == "analysis":
            own.add_argument("--metadata", required=True, help="train.csv, or the folder that is that of pannuke")
            own.add_argument("--root_dir", help="folder of the images, for their sizes")
        elif name == "cams":
            own.add_argument("--checkpoint", required=True, help="a model of whole images of train.py")
            own.add_argument("--img_dir", required=True, help="resized images: segment.py's --img_dir, IMGS/<dataset>")
            own.add_argument("--truth", help="train.csv: say which classes are true")
            own.add_argument("--images", nargs="+", metavar="ID", help="these images; default: the first ones")
            own.add_argument("--limit", type=positive, default=limit, help=f"how many images; default {limit}")
            own.add_argument("--top", type=positive, default=3, help="how many classes of an image; default 3")
            own.add_argument("--size", type=positive, default=size, help=f"pixels of a picture's side; default {size}")
        else:
            add_cell_flags(own, name, limit, size)
    return parser


def add_cell_flags(own: argparse.ArgumentParser, mode: str, limit: int, size: int) -> None:
    """The flags of the modes that show cells."""
    own.add_argument("--cell_meta_csv_path", required=mode != "overlays", help="cells table")
    own.add_argument("--probabilities", help="probabilities table of cells or images")
    own.add_argument("--submission", help="a submission, in place of --probabilities (hpa)")
    own.add_argument("--truth", required=mode == "misses", help="train.csv, of hpa also a table of true cells")
    own.add_argument("--limit", type=positive, default=limit, help=f"how many images or cells; default {limit}")
    own.add_argument("--size", type=positive, default=size, help=f"pixels of an image or cell; default {size}")
    sheets = mode == "contact_sheet"
    own.add_argument("--root_dir", required=not sheets, help="folder of the images")
    if sheets:
        own.add_argument("--crop_dir", required=True, help="crop store of the cells: CROPS/<dataset>")
        own.add_argument("--checkpoint", help="a cell model of train.py: show where it sees the class, too")
    if mode == "overlays":
        own.add_argument("--metadata", help="what names the images: a table or a folder; default: all with cells")
        own.add_argument("--images", nargs="+", metavar="ID", help="these images; default: the first ones")
        own.add_argument("--score_threshold", type=float, default=0.0, help="leave cells of a lower score out")
        own.add_argument("--beside", action="store_true", help="true cells in a picture of their own")


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return number


def main(argv: Sequence[str] | None = None) -> int | None:
    """Draw the pictures of one mode."""
    args = get_args_parser().parse_args(argv)
    with sole_writer(args.out_path):
        return MODES[args.mode][0](args)


if __name__ == "__main__":
    run(main)
