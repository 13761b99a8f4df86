"""How well a detector's masks are the true cells: mean AP of instances over IoU .50 to .95."""

import numpy as np

from cells.found_masks import cut_from_box, frames_of, stack_layers
from cells.overlaps import HALF, remove_overlaps
from engine.scenes import Scenes, to_pixels
from metrics.instance_ap import ap_table
from metrics.instance_pairs import Pairs, pair_layers

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)  # of the finds' scores: an epoch is judged by the best of them


def image_pairs(samples: Scenes, index: int, find: dict[str, np.ndarray]) -> list[Pairs]:
    """The pairs of an image's true cells with the finds above each of THRESHOLDS, in the image's own pixels.

    find: boxes (m, 4) on the canvas, scores (m,), masks (m, 28, 28) on the boxes.
    """
    key = samples.keys[index]
    shape = samples.shape(key)
    truth = stack_layers(samples.cells["PredictionString"].iloc[samples.rows.get(key, [])], *shape)
    boxes = to_pixels(find["boxes"], shape, samples.canvas)
    frames = to_pixels(frames_of(find["boxes"]), shape, samples.canvas)
    cuts = [cut_from_box(*own, shape) for own in zip(find["masks"], boxes, frames, strict=True)]
    pairs = []
    for threshold in THRESHOLDS:
        sure = np.flatnonzero(find["scores"] >= threshold)
        found = remove_overlaps([cuts[row] for row in sure], find["scores"][sure], shape, share=HALF)
        pairs.append(pair_layers(truth, found))
    return pairs


def instance_scores(samples: Scenes, pairs: dict[int, list[Pairs]]) -> dict[str, float]:
    """mAP and AP50 over the images at the threshold of the scores that gives the highest mAP, and each cell type's."""
    kinds = samples.cells.drop_duplicates("ImageID").set_index("ImageID").get("cell_type")
    order = sorted(pairs)
    groups = ["cells" if kinds is None else kinds.get(samples.keys[index], "no cells") for index in order]
    tables = [ap_table([pairs[index][level] for index in order], groups) for level in range(len(THRESHOLDS))]
    best = int(np.argmax([table["AP"].iloc[-1] for table in tables]))
    *own, mean = tables[best].itertuples(index=False)
    types = {f"AP {row.Class}": row.AP for row in own} if len(own) > 1 else {}
    return {"mAP": mean.AP, "AP50": mean.AP50, "score_threshold": THRESHOLDS[best], **types}
