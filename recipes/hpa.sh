#!/usr/bin/env bash
# The HPA road, whole: from the competition's images to submission.csv, and its score where the truth is known.
#
#   bash recipes/hpa.sh --demo             made-up images, small network: minutes on a laptop, no downloads
#   DATA=path/to/hpa bash recipes/hpa.sh   the competition: DATA holds train.csv, train/, sample_submission.csv, test/
#
# --time_limit T   such as 8h30m: what the test images may take, from finding their cells to submission.csv; of the views
#                  and models as many as fit, the others are listed in submission_left_out.csv
#
# Run it again after an interruption: every stage goes on where it was. Settings: OUT (folder to write), FOLD, GPU, WORKERS.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # CPU threads that wait sleep: twice as fast beside other programs
FOLD=${FOLD:-0} GPU=${GPU:-0} WORKERS=${WORKERS:-$(nproc)}
DEMO='' limit=()
while [ $# -gt 0 ]; do
    case $1 in
    --demo) DEMO=1 ;;
    --time_limit) limit=(--time_limit "${2:-}") && shift ;;
    *) echo "hpa.sh: error: $1 is not known; --demo and --time_limit are right" >&2 && exit 2 ;;
    esac
    shift || break
done
T=${limit[1]-1h}
if ! [[ $T =~ ^([0-9]+|([0-9]+h)?([0-9]+m)?([0-9]+s)?)$ && $T =~ [1-9] ]]; then # infer.py would say so, but after the training
    echo "hpa.sh: error: --time_limit '$T' must be a time above zero such as 8h30m, 90m, or 45 for seconds" >&2 && exit 2
fi
code=0
or_skip() { code=$? && [ $code -eq 1 ] || exit $code; } # after a command: images that it skipped and named end nothing

if [ "$DEMO" ]; then
    OUT=${OUT:-demo} SPLIT=random_folds5
    DATA=${DATA:-$OUT/data}
    echo "== make images"
    python synthesize.py --competition hpa --out_dir "$DATA" --train 128 --test 32 --size 640 --cells 6-10 --seed 1 --jobs $((WORKERS > 0 ? WORKERS : 1))
    # A small network with the ImageNet weights of a Python package, so that nothing is downloaded.
    net=(--arch tf_efficientnet_lite0 --pretrained efficientnet-lite0 --batch_size 16)
    cell_size=(--img_size 128 --crop_size 96) image_size=(--img_size 160 --crop_size 128)
    resized=160 focal_from=6 image_epochs=25
else
    OUT=${OUT:-results} SPLIT=random_folds10
    DATA=${DATA:?is the folder of the competition; or give --demo}
    net=(--arch class_densenet121_dropout --batch_size 17 --effective_batch 34)
    cell_size=(--img_size 768 --crop_size 512) image_size=("${cell_size[@]}")
    resized=768 focal_from=4 image_epochs=35
fi
META=$OUT/meta CROPS=$OUT/crops IMGS=$OUT/images RESULTS=$OUT/results FOLDS=$OUT/cv_folds
export PODIUM_TIMES=$OUT/times.jsonl # where each command notes how long it took, for the report
CONFIG=ensemble_configs/ensemble_kaggle016.csv # names Cell_BCE's epoch 6, Cell_Focal's 1 and Image_Focal's 25

echo "== find the cells"
python segment.py --metadata "$DATA/train.csv" --root_dir "$DATA/train" --meta_dir "$META" --crop_dir "$CROPS" \
    --img_dir "$IMGS" --cache_dir "$OUT/cache" --img_size $resized --workers "$WORKERS" || or_skip
python makefolds.py --metadata "$DATA/train.csv" --cell_metadata "$META/train_cell.csv" --split_name $SPLIT --folds_dir "$FOLDS"

echo "== train"
train() { # name, then flags
    python train.py --out_dir "$1" --result_dir "$RESULTS" --folds_dir "$FOLDS" --split_name $SPLIT --fold "$FOLD" \
        --gpu_id "$GPU" --workers "$WORKERS" "${net[@]}" "${@:2}"
}
train Cell_BCE --loss BCE --scheduler AdamShortRun --epochs 6 --cell cell --img_path "$CROPS" "${cell_size[@]}"
train Cell_Focal --loss Focal --scheduler Adam20 --epochs 1 --cell cell --img_path "$CROPS" "${cell_size[@]}" \
    --preload self --resume "$RESULTS/models/Cell_BCE/fold$FOLD/$(printf %03d $focal_from).pth"
train Image_Focal --loss Focal --scheduler AdamAndrew35 --epochs $image_epochs --cell image --img_path "$IMGS" "${image_size[@]}"

echo "== find the cells of the test images, look at them from eight sides with each model, combine the opinions"
python infer.py --competition hpa --ensemble $CONFIG --metadata "$DATA/sample_submission.csv" --root_dir "$DATA/test" \
    --base_dir "$RESULTS" --work_dir "$OUT" --out_path "$OUT/submission.csv" --views all --seeds 1 --folds "$FOLD" \
    --img_size $resized --gpu_id "$GPU" --workers "$WORKERS" "${limit[@]}" || or_skip

steps=()
if [ -e "$DATA/truth.csv" ] && [ ${#limit[@]} -gt 0 ]; then
    echo "== score"
    python evaluate.py --competition hpa --truth "$DATA/truth.csv" --submission "$OUT/submission.csv"
elif [ -e "$DATA/truth.csv" ]; then
    echo "== score: what each step brings"
    mkdir -p "$OUT/steps"
    combine() { # config, folder to write, then flags
        python ensemble.py "$1" --dataset test --submission 1 --rank 0 --meta_csv "$DATA/sample_submission.csv" \
            --cell_meta_csv_path "$META/sample_submission_cell.csv" --tables_path "$OUT/tables" --out_path "$2" --add_datetime 0 "${@:3}"
    }
    grep -E '^Predictions,|,image,' $CONFIG > "$OUT/steps/image.csv"
    grep -E '^Predictions,|,cell,' $CONFIG > "$OUT/steps/cell.csv"
    plain=(--negative own --negative_penalty 0)
    combine "$OUT/steps/image.csv" "$OUT/steps" "${plain[@]}"
    combine "$OUT/steps/cell.csv" "$OUT/steps" "${plain[@]}"
    combine $CONFIG "$OUT/steps/mean" --combine mean "${plain[@]}"
    combine $CONFIG "$OUT/steps/product" --combine product "${plain[@]}"
    steps=(--submission "$OUT"/steps/submission_{image,cell}.csv "$OUT"/steps/{mean,product}/submission_ensemble_kaggle016.csv
        "$OUT/submission.csv" --names "image labels on every cell" "cell model alone" "mean of cell and image" "cell x image"
        "with the Negative rules")
    python evaluate.py --competition hpa --truth "$DATA/truth.csv" "${steps[@]}"
fi

echo "== draw"
truth=()
if [ -e "$DATA/truth.csv" ]; then truth=(--truth "$DATA/truth.csv"); fi
draw() { # mode, then flags
    python visualize.py "$1" --cell_meta_csv_path "$META/sample_submission_cell.csv" --out_path "$OUT/pictures" \
        --probabilities "$OUT/ensemble_ensemble_kaggle016.csv" "${truth[@]}" "${@:2}"
}
draw overlays --metadata "$DATA/sample_submission.csv" --root_dir "$DATA/test" --limit 4
draw contact_sheet --crop_dir "$CROPS/test" --limit 10
python report.py "$OUT" "${truth[@]}" "${steps[@]}" --root_dir "$DATA/test"
echo
echo "submission: $OUT/submission.csv"
echo "pictures:   $RESULTS/models/*/fold$FOLD/curves.png$([ -e "$DATA/truth.csv" ] && echo ", $OUT/score_submission.png") and $OUT/pictures"
echo "report:     $OUT/report.html"
exit $code
