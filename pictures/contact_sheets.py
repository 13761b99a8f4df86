"""The mode `contact_sheet`: a picture a class, of the cells that are most probably of it."""

import argparse
from pathlib import Path

import numpy as np

import competitions
from cells.crops import resize
from cells.store import Store
from cells.table import read_cells
from common.errors import UserError
from common.files import existing
from common.say import say
from pictures.drawing import GREY, Line
from pictures.judging import read_truth
from pictures.opinions import opinion
from pictures.output import save, slug
from pictures.sheet import grid
from pictures.tiles import cell_tile

COLUMNS = {4: 5, 3: 10}  # of tiles, by the crops' channels


def contact_sheet(args: argparse.Namespace) -> int | None:
    """A picture a class: its most probable cells, in falling order; crops that cannot be read are named at the end."""
    failed: dict[str, None] = {}
    competition = competitions.get(args.competition, args.classes)
    what = args.cell_meta_csv_path
    cells, probs = opinion(read_cells(what), competition, args.probabilities, args.submission, what)
    if probs is None:
        raise UserError(f"contact_sheet needs --probabilities or --submission; {what} says no classes of its own")
    labels = read_truth(args.truth, cells, competition, args.root_dir, probs).labels if args.truth else None
    store = Store(existing(args.crop_dir, "--crop_dir"))
    model = None
    if args.checkpoint:
        from pictures.cams import CellModel  # imports torch, seconds that the other pictures need not wait

        model = CellModel(args.checkpoint, "--checkpoint", competition)
    for index, name in enumerate(competition.CLASSES):
        order = np.argsort(-probs[:, index], kind="stable")[: args.limit]
        order = order[probs[order, index] > 0]
        title = [Line(name), Line(f"the {len(order)} cells of highest probability of {len(cells)}", GREY)]
        if labels is not None:
            title.append(Line(f"{labels[order, index].sum()} of them true, {labels[:, index].sum()} in all", GREY))
        keys = [(cells["ImageID"].iloc[row], int(cells["CellID"].iloc[row])) for row in order]
        crops = [read_crop(store, key, failed) for key in keys]
        seen = [place for place, crop in enumerate(crops) if crop is not None]
        order, keys, crops = order[seen], [keys[place] for place in seen], [crops[place] for place in seen]
        heats = [None] * len(crops) if model is None or not crops else model.maps(crops, index)
        tiles = [
            cell_tile(resize(crop, args.size), key, probs[row, index], index, None if labels is None else labels[row],
                      competition.SHORT_NAMES, heat)
            for row, key, crop, heat in zip(order, keys, crops, heats, strict=True)
        ]  # fmt: skip
        path = Path(args.out_path) / f"sheet_{index:02d}_{slug(competition.SHORT_NAMES[index])}.png"
        save(path, grid(tiles, COLUMNS[len(competition.CHANNELS)], title))
    say(f"{args.out_path}: {len(competition.CLASSES)} contact sheets")
    if failed:
        say("not shown: " + "; ".join(failed))
    return 1 if failed else None


def read_crop(store: Store, key: tuple[str, int], failed: dict[str, None]) -> np.ndarray | None:
    """A cell's crop; None, and what is said of it in `failed`, where it cannot be read."""
    try:
        return store.read(*key, raw=True)
    except UserError as error:
        failed[str(error)] = None
        return None
