#!/usr/bin/env bash
# The neurons road, whole: a Mask R-CNN that finds cells and says their type, in several views, and submission.csv.
#
#   bash recipes/neurons.sh --demo                 made-up images, a small network: minutes on a laptop, no downloads
#   DATA=path/to/neurons bash recipes/neurons.sh   DATA holds train.csv, train/, sample_submission.csv, test/
#
# Settings: OUT (folder to write), CLASSES (the cell types, joined by commas; one name where train.csv has none), FOLDS
# (the folds of ten to hold out in turn; their networks are fused), ARCH, TILE (pixels a side of the tiles to look at; 0:
# whole images), PRETRAINED (weights to start from, see train.py; without them a random start; the demo has ImageNet's),
# MORE (further flags of train.py), GPU, WORKERS. Run it again after an interruption: every stage goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
GPU=${GPU:-0} WORKERS=${WORKERS:-0} FOLDS=${FOLDS:-0} TILE=${TILE:-0}
CLASSES=${CLASSES:-shsy5y,astro,cort}
own=(--competition neurons --classes "$CLASSES")
types=$(($(tr -cd , <<< "$CLASSES" | wc -c) + 1))

case "$*" in "" | --demo) ;; *) echo "neurons.sh: error: $* is not known; --demo is right" >&2 && exit 2 ;; esac
if [ "${1:-}" = --demo ]; then
    OUT=${OUT:-demo_neurons}
    DATA=${DATA:-$OUT/data}
    python synthesize.py --competition neurons --out_dir "$DATA" --train 40 --test 6 --size 256x192 --seed 1 --jobs 1
    net=(--arch "${ARCH:-maskrcnn_light_tf_efficientnet_lite0}" --pretrained efficientnet-lite0 --img_size 256
        --epochs 8 --lr 5e-4 --scheduler onecycle --batch_size 4 --ema 0.9)
else
    OUT=${OUT:-results_neurons}
    DATA=${DATA:?is the folder of the competition; or give --demo}
    # Everything else as published (competitions/neurons.py), but that the network tells the types apart.
    net=(--arch "${ARCH:-maskrcnn_convnext_tiny}")
    if [ "${PRETRAINED:-}" ]; then net+=(--pretrained "$PRETRAINED"); fi
fi

echo "== train"
python makefolds.py "${own[@]}" --metadata "$DATA/train.csv" --folds_dir "$OUT/cv_folds" --split_name neurons_folds10 \
    --seed 2025
weights=()
for fold in $FOLDS; do
    python train.py "${own[@]}" --metadata "$DATA/train.csv" --root_dir "$DATA/train" --folds_dir "$OUT/cv_folds" \
        --fold "$fold" --result_dir "$OUT/results" --out_dir Cells --num_classes "$types" --gpu_id "$GPU" \
        --workers "$WORKERS" "${net[@]}" ${MORE:-}
    weights+=("$OUT/results/models/Cells/fold$fold/best.pth")
done

echo "== find the cells of the test images, write the submission"
python segment.py "${own[@]}" --metadata "$DATA/sample_submission.csv" --root_dir "$DATA/test" --edge_rule none \
    --meta_dir "$OUT/meta" --crop_dir "$OUT/crops" --img_dir "$OUT/images" --cache_dir "$OUT/cache" --img_size 512 \
    --weights "$(IFS=, && echo "${weights[*]}")" --augment default,fliplr,flipud --tile "$TILE" \
    --workers "$WORKERS" --gpu_id "$GPU"
python submit.py "${own[@]}" --metadata "$DATA/sample_submission.csv" --out_path "$OUT/submission.csv" \
    --cell_meta_csv_path "$OUT/meta/sample_submission_cell.csv"
truth=()
if [ -e "$DATA/test_truth.csv" ]; then
    truth=(--truth "$DATA/test_truth.csv")
    python evaluate.py "${own[@]}" "${truth[@]}" --root_dir "$DATA/test" --submission "$OUT/submission.csv"
fi
python visualize.py overlays "${own[@]}" --metadata "$DATA/sample_submission.csv" --root_dir "$DATA/test" --limit 4 \
    --cell_meta_csv_path "$OUT/meta/sample_submission_cell.csv" --out_path "$OUT/pictures" "${truth[@]}"
python report.py "$OUT" "${own[@]}" "${truth[@]}" --root_dir "$DATA/test"
