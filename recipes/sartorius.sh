#!/usr/bin/env bash
# Sartorius' own files there and back: labelled cells read, drawn and written as a submission, which is scored; other
# submissions checked (run lengths, image names, masks that share a pixel). No training.
#
#   DATA=path/to/sartorius bash recipes/sartorius.sh   DATA holds train.csv, train/ and test/ (images, submission*.csv)
#
# The true masks of Sartorius overlap and those of a submission must not, so the score is below 1.
# Settings: OUT (folder to write), WORKERS.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:?is the folder of the competition: train.csv, train/ and test/}
OUT=${OUT:-results_sartorius} WORKERS=${WORKERS:-0}
own=(--competition neurons)
labelled=(--metadata "$DATA/train.csv" --root_dir "$DATA/train")

python segment.py "${own[@]}" "${labelled[@]}" --finder truth --edge_rule none --meta_dir "$OUT/meta" \
    --crop_dir "$OUT/crops" --img_dir "$OUT/images" --cache_dir "$OUT/cache" --img_size 512 --workers "$WORKERS"
python submit.py "${own[@]}" --metadata "$DATA/train.csv" --cell_meta_csv_path "$OUT/meta/train_cell.csv" \
    --out_path "$OUT/submission_truth.csv" --score_threshold 0 --min_area 0
python evaluate.py "${own[@]}" --truth "$DATA/train.csv" --submission "$OUT/submission_truth.csv"
python visualize.py overlays "${own[@]}" "${labelled[@]}" --truth "$DATA/train.csv" --out_path "$OUT/pictures" \
    --cell_meta_csv_path "$OUT/meta/train_cell.csv"
for submission in "$DATA"/test/submission*.csv; do
    python evaluate.py "${own[@]}" --submission "$submission" --root_dir "$DATA/test"
done
