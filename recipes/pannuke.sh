#!/usr/bin/env bash
# The pannuke road, whole: an attention U-Net of nuclei and their types on each rotation of the official folds (one to
# score on, the next to validate on, the last to train on; of two folds one is not validated on), its cells, bPQ and
# mPQ by tissue. Its plain variant with PLAIN=1.
#
#   bash recipes/pannuke.sh --demo                 made-up tiles, a small network: minutes on a laptop, no downloads
#   DATA=path/to/pannuke bash recipes/pannuke.sh   DATA holds the folds as they are published (Fold 1/images/fold1/...)
#                                                  or fold1/, fold2/, fold3/ with images.npy, masks.npy, types.npy
#
# Settings: OUT (folder to write), FOLDS (the folds to score on in turn, from 0), CLASSES (your own types), ARCH, PLAIN,
# MORE (further flags of train.py) with its TILE, FIND (of segment.py), WEIGHTS (a checkpoint's name; without it the best
# epoch's, of two folds the last one's), GPU, WORKERS. Run it again after an interruption: every stage goes on.
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
    python synthesize.py --competition pannuke --out_dir "$DATA" --train 240 --size 128 --seed 1 --jobs 1
    net=(--arch "${ARCH:-unet_light_tf_efficientnet_lite0}" --pretrained efficientnet-lite0 --img_size 128
        --progressive 0 --augment nuclei --mixup 0 --freeze_norms 1 --epochs 20 --batch_size 4 --backbone_lr 0.3)
    full=(--lr 2e-3 --depths 1 --loss CrossEntropy --ema 0.98 --swa_start 0)
    plain=(--lr 1e-3 --warmup_epochs 1) # 400 steps
else
    OUT=${OUT:-results_pannuke} FOLDS=${FOLDS:-0 1 2}
    DATA=${DATA:?is the folder of the folds; or give --demo}
    net=(--arch "${ARCH:-unet_resnet34}") full=() plain=() # everything else as published, see competitions/pannuke.py
fi
if [ "${PLAIN:-0}" = 1 ]; then
    net+=(--loss FrequencyDice --optimizer Adam --weight_decay 0 --scheduler cosine --lr 2e-4 --warmup_epochs 5
        --ema 0 --swa_start 0 --mixup 0 --progressive 0 --mixed_precision 0 "${plain[@]}")
else
    net+=("${full[@]}")
fi
RUN=$([ "${PLAIN:-0}" = 1 ] && echo Plain || echo Maps)

split=$OUT/cv_folds/official
python makefolds.py "${own[@]}" --metadata "$DATA" --folds_dir "$OUT/cv_folds" --split_name official --by fold --tables
count=$(ls "$split"/fold[0-9]*.csv | wc -l)
for fold in $FOLDS; do
    held=$split/fold$fold.csv name=fold$fold meta=$OUT/meta/$RUN found=$OUT/${RUN}_fold$fold.csv
    if [ ! -e "$held" ]; then
        echo "pannuke.sh: error: FOLDS=$FOLDS: $DATA has $count folds; 0 to $((count - 1)) are right" >&2 && exit 2
    fi
    if [ "$count" -gt 2 ]; then
        valid=$(((fold + 1) % count)) apart=(--test_fold "$fold")
    else
        valid=$fold apart=(--patience 0) # the last epoch: the fold that is scored is to choose none
    fi
    echo "== train, with fold $valid to validate on and fold $fold to score on"
    python train.py "${own[@]}" --metadata "$DATA" --root_dir "$DATA" --folds_dir "$OUT/cv_folds" --split_name official \
        --fold "$valid" "${apart[@]}" --result_dir "$OUT/results" --out_dir "$RUN" --gpu_id "$GPU" --workers "$WORKERS" \
        "${net[@]}" ${MORE:-}
    models=$OUT/results/models/$RUN/fold$valid weights=${WEIGHTS:-best.pth}
    if [ "$count" = 2 ] && [ -z "${WEIGHTS:-}" ]; then weights=$(basename "$(ls "$models"/[0-9]*.pth | tail -n 1)"); fi
    python segment.py "${own[@]}" --metadata "$held" --root_dir "$DATA" --dataset "$name" --meta_dir "$meta" \
        --crop_dir "$OUT/crops/$RUN" --img_dir "$OUT/images" --cache_dir "$OUT/cache/$RUN" --img_size 256 \
        --weights "$models/$weights" --augment default,fliplr,flipud --tile "${TILE:-0}" --workers "$WORKERS" \
        --gpu_id "$GPU" ${FIND:-}
    python submit.py "${own[@]}" --metadata "$held" --cell_meta_csv_path "$meta/${name}_cell.csv" --out_path "$found"
    python evaluate.py "${own[@]}" --truth "$held" --root_dir "$DATA" --submission "$found"
    python visualize.py overlays "${own[@]}" --metadata "$held" --root_dir "$DATA" --truth "$held" --limit 4 \
        --cell_meta_csv_path "$meta/${name}_cell.csv" --out_path "$OUT/pictures"
    python report.py "$OUT" "${own[@]}" --truth "$held" --root_dir "$DATA" --submission "$found" \
        --cell_meta_csv_path "$meta/${name}_cell.csv" --crop_dir "$OUT/crops/$RUN/$name" \
        --out_path "$OUT/report_${RUN}_$name.html"
done
