#!/bin/sh
# The small preset, end to end: expert bags -> VLM (1a) beside perception and planner (1b) -> bags in which these two
# drive and the expert says what it would do -> adapter (1c).
# Two cores: 1a runs beside the first part of 1b. Run it again after Ctrl-C: it goes on where it stopped.
set -eu
PYTHON=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
mkdir -p runs/train

$PYTHON -m training.record
$PYTHON -m training.stage1_vlm --resume > runs/train/stage1_vlm.log 2>&1 &
vlm=$!
trap 'kill -INT $vlm 2>/dev/null || true' INT TERM EXIT
OMP_NUM_THREADS=2 $PYTHON -m training.stage1_e2e --resume --threads 2
wait $vlm || { tail -3 runs/train/stage1_vlm.log; exit 1; }
$PYTHON -m training.record --policy runs/train/stage1_e2e/model --first 100 --clips 10 --validation 0
OMP_NUM_THREADS=2 $PYTHON -m training.stage1_adapter --resume --threads 2
$PYTHON -m training.evaluate closed-loop --clips follow_stop:1000-1019,cut_in:1000-1019,hard_brake:1000-1019,empty_road:1000-1019,curve:1000-1019,turn_left:1000-1019,turn_right:1000-1019 --videos 7
