#!/usr/bin/env bash
# What helps to tell cells apart by the labels of their images: each idea alone and together, beside the 12th place's
# recipe, on one fixed made-up set. benchmarks/weak_labels.md has the figures.
#
#   bash benchmarks/weak_labels.sh                        CPU scale, seed 1: two to four hours of one core,
#                                                         15 to 25 minutes for IDEAS="recipe combination rules"
#   SEEDS="1 2 3" OUT=weak bash benchmarks/weak_labels.sh the whole table
#   SCALE=gpu SEEDS="1 2 3" OUT=weak_gpu bash benchmarks/weak_labels.sh
#   IDEAS="recipe bag" bash benchmarks/weak_labels.sh     some of them; `recipe` must be the first or be done
#
# Run again, with more seeds or ideas too, it goes on where it was: nothing that is finished is done twice.
# Every idea is the recipe with one thing changed: the rest, the image model and the eight views too, is as it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
SCALE=${SCALE:-cpu} OUT=${OUT:-weak_labels} SEEDS=${SEEDS:-1} GPU=${GPU:-0} WORKERS=${WORKERS:-0}
IDEAS=${IDEAS:-"recipe combination views rules bag warm together ema soft everything longer balanced mixup cutmix \
pooled puzzle puzzled duo attention"}

net=tf_efficientnet_lite0 # with the ImageNet weights of a Python package: nothing is downloaded
case $SCALE in
cpu)
    images=(--size 448 --cells 4-6)
    cell_epochs=12 focal_from=12 single_epochs=12 image_epochs=16 whole_epochs=16 long_epochs=24
    cell_size=(--img_size 80 --crop_size 64) image_size=(--img_size 192 --crop_size 160)
    resized=192 batch=16 whole_batch=8 bag_batch=4 duo_size=("${cell_size[@]}") ema=0.98
    lr=1e-3 focal_lr=5e-4 # of the published schedules' first epoch, x 3.3 for all: these runs are so short
    cell_schedule=(--scheduler cosine --lr $lr) # the published one ends after 6 epochs, of two hundred times the cells
    ;;
gpu)
    images=(--size 2048)
    cell_epochs=6 focal_from=4 single_epochs=7 image_epochs=25 whole_epochs=14 long_epochs=18
    cell_size=(--img_size 320 --crop_size 256) image_size=(--img_size 768 --crop_size 512)
    resized=768 batch=32 whole_batch=16 bag_batch=4 duo_size=("${cell_size[@]}") ema=0.998
    lr=3e-4 focal_lr=1.5e-4 # as published
    cell_schedule=(--scheduler AdamShortRun --lr $lr)
    ;;
*)
    echo "SCALE=$SCALE is not known; choose from: cpu, gpu" >&2
    exit 2
    ;;
esac
DATA=$OUT/data META=$OUT/meta CROPS=$OUT/crops IMGS=$OUT/images CACHE=$OUT/cache FOLDS=$OUT/cv_folds
SAMPLE=$DATA/test/sample_submission.csv TRUTH=$DATA/test/truth.csv
TIMEFORMAT='%U %S'
VIEWS= # the end of the tables' folders where other views than the recipe's are looked at

# ---- Steps ----

once() { # mark, then a command: run it unless it has been; the CPU seconds go to the idea's account
    if [ ! -e "$RUN/done/$1" ]; then
        echo "== seed $SEED: $1"
        { time "${@:2}" 2>&3; } 3>&2 2>> "$RUN/seconds/$IDEA"
        touch "$RUN/done/$1"
    fi
}

train() { # name, network, then flags
    once "train_$1_${FOLD:-0}" python train.py --out_dir "$1" --arch "$2" --pretrained efficientnet-lite0 --seed "$SEED" \
        --result_dir "$RUN/results" --folds_dir "$FOLDS" --split_name "${SPLIT:-holdout}" --fold "${FOLD:-0}" \
        --batch_size $batch --gpu_id "$GPU" --workers "$WORKERS" "${@:3}"
}

predict() { # name, epoch, cell or image, then flags
    local views=(--augment all --seeds "${CROP_SEEDS:-1}") cells=(--cell_meta_csv_path "$META/all/sample_submission_cell.csv")
    once "predict_$1$VIEWS" python test.py --base_dir "$RUN/results" --out_dir "$1" --predict_epoch "$2" --cellorimage "$3" \
        --dataset test "${views[@]}" --gpu_id "$GPU" --workers "$WORKERS" "${@:4}"
    once "convert_$1$VIEWS" python convertpredictions.py --dataset test --model "$1" --epoch "$2" --cellorimage "$3" \
        "${views[@]}" --predictions_path "$RUN/results/submissions" --meta_csv_path "$SAMPLE" "${cells[@]}" \
        --out_path "$RUN/tables_all$VIEWS" --add_datetime 0
    once "keep_$1$VIEWS" python benchmarks/weak_labels.py keep --table "$RUN/tables_all$VIEWS/probabilities_$1_$2.csv" \
        --cells "$META/kept/sample_submission_cell.csv" --out "$RUN/tables_kept$VIEWS/probabilities_$1_$2.csv"
}

score() { # name, tables as <model>_<epoch>:<kind>:<weight>, --, then flags of ensemble.py
    local name=$1 config=$RUN/configs/$1.csv part weight
    shift
    if [ -e "$RUN/scores/score_submission_$name.csv" ]; then return; fi
    head -1 ensemble_configs/ensemble_kaggle016.csv > "$config"
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        IFS=: read -r -a part <<< "$1"
        weight=$(printf ",${part[2]}%.0s" {1..19})
        echo "probabilities_${part[0]}.csv,${part[1]}$weight" >> "$config"
        shift
    done
    python ensemble.py "$config" --dataset test --submission 1 --meta_csv "$SAMPLE" --out_path "$RUN/scores" \
        --cell_meta_csv_path "$META/${BORDER:-kept}/sample_submission_cell.csv" --tables_path "$RUN/tables_${BORDER:-kept}$VIEWS" \
        --add_datetime 0 "${@:2}" > /dev/null
    rm "$RUN/scores/ensemble_$name.csv"
    python evaluate.py --submission "$RUN/scores/submission_$name.csv" --truth "$TRUTH" | tail -1 | sed "s/^/$name: /"
    rm "$RUN/scores/submission_$name.csv"
}

# ---- The 12th place ----

cell=(--cell cell --img_path "$CROPS" "${cell_size[@]}")
whole=(--cell image --img_path "$IMGS" --batch_size $whole_batch)
I=("Image_Focal_$image_epochs:image:1")
no_negative=(--negative own --negative_penalty 0)

pair() { # name, then flags of both: the published pair of cell models, BCE epochs and one Focal epoch after them
    train "$1_BCE" class_${net}_dropout "${cell[@]}" --loss BCE "${cell_schedule[@]}" --epochs $cell_epochs "${@:2}"
    train "$1_Focal" class_${net}_dropout "${cell[@]}" --loss Focal --scheduler Adam20 --lr $focal_lr --epochs 1 "${@:2}" \
        --preload self --resume "$RUN/results/models/$1_BCE/fold0/$(printf %03d $focal_from).pth"
    predict "$1_BCE" $cell_epochs cell --img_dir "$CROPS"
    predict "$1_Focal" 1 cell --img_dir "$CROPS"
}

pair_tables() { # name: the pair with its published weights
    PAIR=("$1_BCE_$cell_epochs:cell:0.4" "$1_Focal_1:cell:0.6")
}

idea_recipe() {
    pair Cell
    train Image_Focal class_${net}_dropout "${whole[@]}" "${image_size[@]}" --loss Focal --scheduler AdamAndrew35 --lr $lr \
        --epochs $image_epochs
    predict Image_Focal $image_epochs image --img_dir "$IMGS"
    pair_tables Cell
    score baseline "${I[@]}" -- "${no_negative[@]}"
    score cell_alone "${PAIR[@]}" -- "${no_negative[@]}"
    score product "${PAIR[@]}" "${I[@]}" -- "${no_negative[@]}"
    score recipe "${PAIR[@]}" "${I[@]}" --
}

# ---- Each idea alone ----

idea_combination() { # other rules for the recipe's own tables
    pair_tables Cell
    local rule all=("${PAIR[@]}" "${I[@]}" --)
    for rule in mean weighted; do score combine_$rule "${all[@]}" --combine $rule; done
    for rule in own 1-max product; do score negative_$rule "${all[@]}" --negative $rule; done
    score decay "${all[@]}" --decay 11=0.5
    score rank "${all[@]}" --rank 1
    score images_by_cells "${PAIR[@]}" "${PAIR[@]/:cell:/:bag:}" "${I[@]}" --
    for rule in none touch area nucleus nucleus_box completeness; do
        BORDER=all score border_$rule "${all[@]}" --border_weight $rule
    done
}

idea_views() { # sixteen views: eight of the whole and eight of random crops
    local VIEWS=_both CROP_SEEDS=0,1
    predict Cell_BCE $cell_epochs cell --img_dir "$CROPS"
    predict Cell_Focal 1 cell --img_dir "$CROPS"
    predict Image_Focal $image_epochs image --img_dir "$IMGS"
    pair_tables Cell
    score views "${PAIR[@]}" "${I[@]}" --
}

replaced() { # idea, flags: the recipe's pair trained with other flags
    pair "$1" "${@:2}"
    pair_tables "$1"
    score "$1" "${PAIR[@]}" "${I[@]}" --
}

idea_ema() { replaced ema --ema $ema; }
idea_balanced() { replaced balanced --sample -1; }
idea_mixup() { replaced mixup --mixup 0.4; }
idea_cutmix() { replaced cutmix --cutmix 1; }
idea_longer() { # the control: as many epochs as the best combination has in all; and that combination of these models
    local cell_schedule=(--scheduler cosine --lr $lr) cell_epochs=$long_epochs focal_from=$long_epochs
    replaced longer
    score longer_product "${PAIR[@]}" "${I[@]}" -- "${no_negative[@]}"
    together longer_rules 1 "${PAIR[@]}"
}

single() { # idea, network, then flags: one model in place of the pair
    train "$1" "$2" --loss BCE "${cell_schedule[@]}" --epochs $single_epochs "${@:3}"
    predict "$1" $single_epochs cell --img_dir "$CROPS"
    score "$1" "$1_$single_epochs:cell:1" "${I[@]}" --
}

bags=(bag_$net "${cell[@]}" --batch_size $bag_batch)
idea_bag() { single bag "${bags[@]}"; }
idea_attention() { single attention "${bags[@]}" --pool attention; }
idea_warm() { # bags that begin with the recipe's cell model
    single warm "${bags[@]}" --preload self --resume "$RUN/results/models/Cell_BCE/fold0/$(printf %03d $cell_epochs).pth"
}
idea_duo() { single duo duo_$net "${whole[@]}" --crop_dir "$CROPS" "${duo_size[@]}"; }

from_image() { # idea, network, then flags: cells from the maps of whole images; random crops would cut them off
    train "$1" "$2" "${whole[@]}" "${image_size[@]}" --loss BCE --scheduler AdamAndrew35 --lr $lr --epochs $whole_epochs "${@:3}"
    CROP_SEEDS=0 predict "$1" $whole_epochs cell --img_dir "$IMGS" --cache_dir "$CACHE"
    score "$1" "$1_$whole_epochs:cell:1" "${I[@]}" --
}

idea_pooled() { from_image pooled pooled_$net --cache_dir "$CACHE"; }
idea_puzzle() { from_image puzzle class_${net}_cam --puzzle 1; }

idea_soft() { # out-of-fold opinions of the recipe's cell model, corrected by the images' labels, then its pair anew
    local fold tables=$RUN/tables_oof/probabilities_oof_$single_epochs.csv
    for fold in 0 1; do
        FOLD=$fold SPLIT=oof_folds2 train oof class_${net}_dropout "${cell[@]}" --loss BCE "${cell_schedule[@]}" \
            --epochs $single_epochs
        once predict_oof_$fold python test.py --base_dir "$RUN/results" --out_dir oof --predict_epoch $single_epochs \
            --dataset valid --split_name oof_folds2 --folds_dir "$FOLDS" --fold $fold --img_dir "$CROPS" --gpu_id "$GPU"
    done
    once convert_oof python convertpredictions.py --dataset valid --model oof --epoch $single_epochs --seeds 0 \
        --cellorimage cell --predictions_path "$RUN/results/submissions" --meta_csv_path "$DATA/train/train.csv" \
        --cell_meta_csv_path "$META/kept/train_cell.csv" --out_path "$RUN/tables_oof" --add_datetime 0
    once soft_labels python pseudolabels.py --tables "$tables" --metadata "$DATA/train/train.csv" \
        --cell_metadata "$META/kept/train_cell.csv" --quantise 4 --out "$RUN/soft_labels.csv"
    replaced soft --soft_labels "$RUN/soft_labels.csv"
}

# ---- Together: what helps on the first seed ----

together() { # name, the image model's weight, tables of cells: they judge the images, too
    local cells=("${@:3}")
    BORDER=all score "$1" "${cells[@]}" "${cells[@]/:cell:/:bag:}" "Image_Focal_$image_epochs:image:$2" -- \
        --negative own --border_weight completeness
}

idea_rules() { # with the recipe's own tables
    pair_tables Cell
    together rules 1 "${PAIR[@]}"
}

idea_together() { # and with warm bags
    pair_tables Cell
    together together 2 "${PAIR[@]}" "warm_$single_epochs:cell:1"
}

idea_puzzled() { # or with PuzzleCAM
    pair_tables Cell
    together together_puzzle 2 "${PAIR[@]}" "puzzle_$whole_epochs:cell:1"
}

idea_everything() { # and with running means and soft labels
    pair_tables Cell
    local cells=("${PAIR[@]}" "warm_$single_epochs:cell:1")
    pair_tables ema
    cells+=("${PAIR[@]}")
    together together_ema 3 "${cells[@]}"
    pair_tables soft
    together together_soft 4 "${cells[@]}" "${PAIR[@]}"
}

# ---- Data, then every seed ----

prepare() { # the seeds of the two sets are fixed; the seeds of the runs differ
    python synthesize.py --competition hpa --out_dir "$DATA/train" --train 400 --test 0 --seed 21 "${images[@]}"
    python synthesize.py --competition hpa --out_dir "$DATA/test" --train 0 --test 100 --seed 22 "${images[@]}"
    segment() { # table, folder of the images, rule, then flags
        python segment.py --metadata "$1" --root_dir "$2" --img_dir "$IMGS" --img_size $resized --workers "$WORKERS" "${@:3}"
    }
    segment "$DATA/train/train.csv" "$DATA/train/train" --meta_dir "$META/kept" --crop_dir "$CROPS" --cache_dir "$CACHE"
    segment "$SAMPLE" "$DATA/test/test" --meta_dir "$META/all" --crop_dir "$CROPS" --cache_dir "$CACHE" --edge_rule none
    segment "$SAMPLE" "$DATA/test/test" --meta_dir "$META/kept" --crop_dir "$OUT/kept" --cache_dir "$OUT/kept_cache"
    folds() { python makefolds.py --metadata "$DATA/train/train.csv" --folds_dir "$FOLDS" "$@" > /dev/null; }
    folds --split_name holdout --holdout 20
    folds --split_name oof_folds2
    touch "$OUT/prepared"
}

if [ ! -e "$OUT/prepared" ]; then prepare; fi
for SEED in $SEEDS; do
    RUN=$OUT/seed$SEED
    mkdir -p "$RUN"/{done,seconds,configs,scores,tables_all,tables_kept,tables_oof}
    for IDEA in $IDEAS; do
        "idea_$IDEA"
    done
done
python benchmarks/weak_labels.py collect --out_dir "$OUT"
