#!/bin/sh
# Stage 1 of the small preset, end to end, on two cores; again after Ctrl-C: it goes on where it stopped.
# expert bags -> VLM (1a) beside perception and planner (1b) -> more of them, and bags in which these two drive and the
# expert says what it would do -> 1b goes on with all -> adapter and planner (1c) -> bags that the whole stack drives, and 1c again, twice.
# SEED=1 ... trains other seeds on the same bags, after seed 0; CLIPS: training clips per family; OUT: where the result goes.
set -eu
PYTHON=${PYTHON:-.venv/bin/python}
SEED=${SEED:-0}
CLIPS=${CLIPS:-18}
OUT=${OUT:-models/small-s1}
RUN=runs/train/seed$SEED
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
mkdir -p "$RUN"

$PYTHON -m training.record --clips "$CLIPS"
# In the background a shell starts what ignores Ctrl-C; and 1a must hear of it once, from us: the second one is at once.
setsid env --default-signal=INT \
  $PYTHON -m training.stage1_vlm --resume --steps 3000 --seed "$SEED" --run "$RUN/vlm" --out "$OUT/vlm" > "$RUN/vlm.log" 2>&1 &
vlm=$!
stop() { # exit code; 1a may end its step and save
  trap - INT TERM HUP EXIT
  kill -INT $vlm 2>/dev/null || true
  wait $vlm || true
  exit "$1"
}
trap 'stop $?' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM HUP
OMP_NUM_THREADS=2 $PYTHON -m training.stage1_e2e --resume --threads 2 --seed "$SEED" --steps 1600 \
  --run "$RUN/e2e" --out "$RUN/e2e/model"
wait $vlm || { tail -3 "$RUN/vlm.log"; exit 1; }
trap - INT TERM HUP EXIT # its number may be another process's from now on
$PYTHON -m training.record --first "$CLIPS" --clips 5 --validation 0 # bags that the VLM does not know, for 1c
$PYTHON -m training.record --policy runs/train/seed0/e2e/model --first 100 --clips 4 --validation 0
OMP_NUM_THREADS=2 $PYTHON -m training.stage1_e2e --resume --threads 2 --seed "$SEED" --steps 800 --lr 4e-4 \
  --start "$RUN/e2e/model" --run "$RUN/e2e_2" --out "$RUN/e2e_2/model"
# round N, where the model goes: adapter and planner; what is known of earlier rounds' bags is not computed again
adapter() {
  mkdir -p "$RUN/adapter_$1"
  [ "$1" = 1 ] || cp -rl "$RUN/adapter_$(($1 - 1))/tokens" "$RUN/adapter_$(($1 - 1))/decisions" "$RUN/adapter_$1/" 2> "$RUN/cp.log" || true
  OMP_NUM_THREADS=2 $PYTHON -m training.stage1_adapter --resume --threads 2 --seed "$SEED" \
    --start "$RUN/e2e_2/model" --vlm "$OUT/vlm" --run "$RUN/adapter_$1" --out "$2"
}
for round in 1 2; do
  adapter $round "$RUN/round$round"
  cp -r "$OUT/vlm" "$RUN/round$round/"
  $PYTHON -m training.record --policy "runs/train/seed0/round$round" --first "$((round + 1))00" --clips 4 --validation 0
done
adapter 3 "$OUT"
