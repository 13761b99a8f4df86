#!/usr/bin/env bash
# The pannuke road, whole: an attention U-Net of nuclei and their types on each rotation of the official folds, its
# cells, bPQ and mPQ by tissue. Its plain variant with PLAIN=1.
#
#   bash recipes/pannuke.sh --demo                 made-up tiles, a small network: minutes on a laptop, no downloads
#   DATA=path/to/pannuke bash recipes/pannuke.sh   DATA holds fold1/, fold2/, fold3/ with images.npy, masks.npy, types.npy
#
# Settings: OUT (folder to write), FOLDS (the folds to hold out in turn, from 0), CLASSES (your own types), ARCH, PLAIN,
# MORE (further flags of train.py) with its TILE, FIND (of segment.py), WEIGHTS (a checkpoint's name; without it the last
# epoch's), GPU, WORKERS. Run it again after an interruption: every stage goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
GPU=${GPU:-0} WORKERS=${WORKERS:-0}
own=(--competition pannuke)
if [ -n "${CLASSES:-}" ]; then own+=(--classes "$CLASSES"); fi

case "$*" in "" | --demo) ;; *) echo "pannuke.sh: error: $* is not known; --demo is right" >&2 && exit 2 ;; esac
if [ "${1:-}" = --demo ]; then
    OUT=${OUT:-demo_pannuke} FOLDS=${FOLDS:-0}
    DATA=${DATA:-$OUT/data}
    python synthesize.py --competition pannuke --out_dir "$DATA" --train 120 --size 128 --seed 1 --jobs 1
    net=(--arch "${ARCH:-unet_light_tf_efficientnet_lite0}" --pretrained efficientnet-lite0 --img_size 128
        --progressive 0 --augment nuclei --borders 2 --border_reach 2 --loss CrossEntropy --mixup 0 --freeze_norms 1
        --epochs 20 --batch_size 4 --lr 2e-3 --backbone_lr 0.3 --ema 0.98 --swa_start 0)
    plain=(--lr 1e-3 --warmup_epochs 1 --borders 0) # 400 steps
else
    OUT=${OUT:-results_pannuke} FOLDS=${FOLDS:-0 1 2}
    DATA=${DATA:?is the folder of the folds; or give --demo}
    net=(--arch "${ARCH:-unet_resnet34}") plain=() # everything else as published, see competitions/pannuke.py
fi
if [ "${PLAIN:-0}" = 1 ]; then
    net+=(--loss FrequencyDice --optimizer Adam --weight_decay 0 --scheduler cosine --lr 2e-4 --warmup_epochs 5
        --ema 0 --swa_start 0 --mixup 0 --progressive 0 --mixed_precision 0 "${plain[@]}")
fi
RUN=$([ "${PLAIN:-0}" = 1 ] && echo Plain || echo Maps)

python makefolds.py "${own[@]}" --metadata "$DATA" --folds_dir "$OUT/cv_folds" --split_name official --by fold
for fold in $FOLDS; do
    echo "== hold the fold $((fold + 1)) out"
    python train.py "${own[@]}" --metadata "$DATA" --root_dir "$DATA" --folds_dir "$OUT/cv_folds" --split_name official \
        --fold "$fold" --result_dir "$OUT/results" --out_dir "$RUN" --gpu_id "$GPU" --workers "$WORKERS" --patience 0 "${net[@]}" ${MORE:-}
    name=fold$((fold + 1)) meta=$OUT/meta/$RUN
    held=$DATA/$name found=$OUT/${RUN}_$name.csv
    models=$OUT/results/models/$RUN/fold$fold
    weights=${WEIGHTS:-$(basename "$(ls "$models"/[0-9]*.pth | tail -n 1)")} # the last: the held-out fold chose none
    python segment.py "${own[@]}" --metadata "$held" --root_dir "$held" --dataset "fold$fold" --edge_rule none \
        --meta_dir "$meta" --crop_dir "$OUT/crops/$RUN" --img_dir "$OUT/images" --cache_dir "$OUT/cache/$RUN" --img_size 256 \
        --weights "$models/$weights" --augment default,fliplr,flipud --tile "${TILE:-0}" --workers "$WORKERS" \
        --gpu_id "$GPU" ${FIND:-}
    python submit.py "${own[@]}" --metadata "$held" --cell_meta_csv_path "$meta/${name}_cell.csv" --out_path "$found"
    python evaluate.py "${own[@]}" --truth "$held" --submission "$found"
    python visualize.py overlays "${own[@]}" --metadata "$held" --root_dir "$held" --truth "$held" --limit 4 \
        --cell_meta_csv_path "$meta/${name}_cell.csv" --out_path "$OUT/pictures"
    python report.py "$OUT" "${own[@]}" --truth "$held" --root_dir "$held" --submission "$found" \
        --cell_meta_csv_path "$meta/${name}_cell.csv" --out_path "$OUT/report_${RUN}_$name.html"
done
