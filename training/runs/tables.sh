#!/bin/sh
# The open-loop tables of docs/results.md (T1, T2, T4): each variant of stage 1c with each seed into
# runs/tables/seedN/VARIANT, then all of them along the evaluation bags; again after Ctrl-C: it goes on where it stopped.
# E2E, VLM: stage 1b model and stage 1a VLM of all seeds. By default those of each seed, seed 0's where a seed has none:
# SEED=N OUT=runs/train/seedN/model sh training/runs/small.sh trains them; seed 0's VLM may be in models/small-s1.
# Others: SEEDS, VARIANTS, BAGS (of training), EVAL (bags of evaluation), OUT, WORKERS, and MORE: further options of stage
# 1c, e.g. MORE=--fresh E2E=models/small-s1 for planners from random weights on the perception that ships.
set -eu
PYTHON=${PYTHON:-.venv/bin/python}
SEEDS=${SEEDS:-0 1 2}
VARIANTS=${VARIANTS:-senna2 senna no_decision_token e2e regression blind}
BAGS=${BAGS:-bags}
EVAL=${EVAL:-bags_eval}
OUT=${OUT:-runs/tables}
WORKERS=${WORKERS:-2}
MORE=${MORE:-}
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# first WHAT SEED FOLDER...: the first of the folders that is there; a word when it is not the first
first() {
  what=$1 seed=$2 wanted=$3
  shift 2
  for folder in "$@"; do
    [ -d "$folder" ] || continue
    [ "$folder" = "$wanted" ] || echo "seed $seed: no $what in $wanted, so that of seed 0: $folder" >&2
    echo "$folder"
    return
  done
  echo "seed $seed: no $what in any of: $*; train it with training/runs/small.sh, or name one: $what=FOLDER" >&2
  return 1
}

for seed in $SEEDS; do
  e2e=${E2E:-$(first E2E "$seed" "runs/train/seed$seed/e2e_2/model" runs/train/seed0/e2e_2/model)}
  vlm=${VLM:-$(first VLM "$seed" "runs/train/seed$seed/model/vlm" models/small-s1/vlm)}
  for variant in $VARIANTS; do
    model=$OUT/seed$seed/$variant
    made_from=$(cat "$e2e"/perception/*.safetensors "$e2e"/planner/*.safetensors "$vlm"/*.safetensors | cksum)
    if [ -f "$model/made_from" ]; then
      [ "$(cat "$model/made_from")" = "$made_from" ] && continue
      echo "$model: made from another E2E or VLM than $e2e and $vlm; remove it and $OUT/run/$variant/seed$seed" >&2
      exit 1
    fi
    echo "seed $seed, $variant: from $e2e and $vlm"
    OMP_NUM_THREADS=2 $PYTHON -m training.stage1_adapter --resume --threads 2 --seed "$seed" --variant "$variant" \
      --bags "$BAGS" --start "$e2e" --vlm "$vlm" --run "$OUT/run" --out "$model" $MORE
    [ -d "$model/planner" ] || continue # PYTHON=echo
    if [ -d "$model/adapter" ]; then ln -sfn "$(cd "$vlm" && pwd)" "$model/vlm"; fi
    echo "$made_from" > "$model/made_from"
  done
done

set -- # NAME=FOLDER,FOLDER,... of each variant
for variant in $VARIANTS; do
  folders=
  for seed in $SEEDS; do folders=$folders${folders:+,}$OUT/seed$seed/$variant; done
  set -- "$@" "$variant=$folders"
done
$PYTHON -m training.record --split evaluation --out "$EVAL" --workers "$WORKERS"
for table in open-loop consistency; do
  $PYTHON -m training.evaluate $table --models "$@" --bags "$EVAL" --out "$OUT/open_loop" --workers "$WORKERS"
done
