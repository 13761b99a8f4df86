"""Write the submission of what a finder found, where the finder says the classes, too, and no classifier has a say.

    python submit.py --competition neurons --metadata DATA/sample_submission.csv \\
        --cell_meta_csv_path META/sample_submission_cell.csv --out_path OUT/submission.csv

A cell is of the class in its column Label, which networks write; with one class alone, of that one. evaluate.py scores
the submission where the truth is known. Of neurons only cells go in that reach the published score and area of their
image's type (shsy5y .15 and 75 pixels, astro .35 and 150, cort .55 and 75; others .5 and 10).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import competitions
from cells.table import BOX, CELL_COLUMNS, KEY, certain, read_table
from common.errors import UserError, at_least, run
from common.files import sole_writer


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--metadata", required=True, help="which images, as segment.py got it")
    parser.add_argument("--cell_meta_csv_path", required=True, help="the cells table that segment.py wrote")
    parser.add_argument("--out_path", required=True, help="the file to write")
    parser.add_argument("--score_threshold", type=float, help="neurons: cells with a lower score stay out, of any type")
    parser.add_argument("--min_area", type=int, help="neurons: cells with fewer pixels stay out, of any type")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Write the submission and say how many cells went into it."""
    args = get_args_parser().parse_args(argv)
    with sole_writer(Path(args.out_path).parent):
        submit(args)


def submit(args: argparse.Namespace) -> None:
    """The submission of the flags."""
    competition = competitions.get(args.competition, args.classes)
    if not competition.CELL_LABELS:
        raise UserError(f"--competition {args.competition}: its cells table has no classes; ensemble.py and infer.py "
            "write its submission")  # fmt: skip
    limits = limits_of(args, competition)
    images = competition.read_metadata(args.metadata)
    path = args.cell_meta_csv_path
    columns = {**CELL_COLUMNS, **dict.fromkeys(BOX, float), "score": float, "Label": str}
    cells = read_table(path, columns, key=KEY)
    unknown = cells["ImageID"][~cells["ImageID"].isin(images["ID"])]
    if len(unknown):
        raise UserError(f"{path} has the image {unknown.iloc[0]}, which {args.metadata} lacks")
    probs = certain(cells, competition.CLASSES, path)
    count = competition.write_submission(args.out_path, images, cells, probs, **limits)
    some = f"{len(cells)}" if count is None else f"{count} of {len(cells)}"
    print(f"{args.out_path}: {some} cells in {len(images)} images")  # noqa: T201


def limits_of(args: argparse.Namespace, competition: competitions.Competition) -> dict[str, float]:
    """What cells must reach by the flags that are given."""
    flags = "score_threshold", "min_area"
    at_least(args, dict.fromkeys(flags, 0))
    given = {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    foreign = [f"--{name}" for name in given if name not in getattr(competition, "SUBMISSION_FLAGS", ())]
    if foreign:
        raise UserError(f"{foreign[0]} is for neurons; a submission of {competition.name} holds all cells")
    return given


if __name__ == "__main__":
    run(main)
