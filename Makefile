# Every target first brings .venv up to date (scripts/setup.py; nothing to do takes 0.1 s). Nothing to source.
.DEFAULT_GOAL := help
.PHONY: help setup sim replay test lint format bags train tables lock colcon clean distclean

PYTHON ?= python3
VENV := $(CURDIR)/.venv/bin
export PATH := $(VENV):$(PATH)
export OMP_WAIT_POLICY ?= passive
# a ROS install that happens to be sourced must not leak into .venv (target colcon wants it)
ifeq ($(filter colcon,$(MAKECMDGOALS)),)
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
endif

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

setup: ## virtual environment .venv with everything in it; TORCH="torch==2.13.0 ..." chooses another torch build
	@$(PYTHON) scripts/setup.py

sim: setup ## drive a clip: CLIP= SEED= MODE=lockstep|realtime DRIVER=senna2|expert|constant_velocity DEVICE=auto|cpu|cuda RIG= FORCE="accelerate, straight" MODELS=; or a scene: SCENE=file.ply|scene.json SCENE_UP= SCENE_SCALE= SCENE_POSE= SCENE_MAP= SCENE_CAPTURES=
	@python -m senna2_bringup.simulate $(if $(CLIP),--clip $(CLIP)) $(if $(SEED),--seed $(SEED)) $(if $(MODE),--mode $(MODE)) \
	  $(if $(DRIVER),--driver $(DRIVER)) $(if $(MODELS),--models "$(MODELS)") $(if $(DEVICE),--device $(DEVICE)) $(if $(RIG),--rig $(RIG)) $(if $(FORCE),--force-decision "$(FORCE)") $(if $(SCENE),--scene "$(SCENE)") \
	  $(if $(SCENE_UP),--scene.up=$(SCENE_UP)) $(if $(SCENE_SCALE),--scene.scale $(SCENE_SCALE)) \
	  $(if $(SCENE_POSE),--scene.pose $(SCENE_POSE)) $(if $(SCENE_MAP),--scene.map "$(SCENE_MAP)") \
	  $(if $(SCENE_CAPTURES),--scene.captures "$(SCENE_CAPTURES)")

replay: setup ## play a recorded bag through the nodes and score them: BAG= MODE=lockstep|realtime RATE= PLAYER=false (ros2 bag play plays) MODELS= DEVICE= LABEL=auto|plan|odometry; docs/replay.md
	@$(if $(BAG),python -m senna2_bringup.replay "$(BAG)",echo "error: which bag? make replay BAG=bags/NAME (make bags records some)" >&2; exit 2) \
	  $(if $(MODE),--mode $(MODE)) $(if $(RATE),--rate $(RATE)) $(if $(filter false False 0,$(PLAYER)),--no-player) \
	  $(if $(MODELS),--models "$(MODELS)") $(if $(DEVICE),--device $(DEVICE)) $(if $(LABEL),--label $(LABEL))

bags: setup ## record expert demonstrations for training into bags/
	@python -m training.record

train: setup ## train the small preset end to end and write models/small-s1; again after Ctrl-C: it goes on
	@PYTHON=$(VENV)/python sh training/runs/small.sh

tables: setup ## every table and figure of the benchmark from the models that are there: runs/tables/index.html; hours; QUICK=1: three clips; WORKERS=
	@python -m training.all_tables $(if $(QUICK),--quick) $(if $(WORKERS),--workers $(WORKERS))

test: lint ## all checks and tests; ARGS= goes to pytest
	@ROS_PYTHON_CHECK_FIELDS=1 ROS_LOG_DIR=$(CURDIR)/.cache/ros OMP_NUM_THREADS=1 python -m pytest --basetemp=.cache/pytest $(ARGS)

lint: setup ## style, types, import rules
	@ruff check && ruff format --check && mypy && lint-imports

format: setup ## let ruff format and fix
	@ruff check --fix --quiet; ruff format

lock: setup ## requirements.in -> requirements.lock, for Python 3.10 to 3.13
	@uv pip compile --quiet --universal --python-version 3.10 --no-emit-package torch --no-annotate --no-header \
	  requirements.in -o requirements.lock

colcon: ## where ROS 2 Kilted is sourced: .venv-ros and colcon build; then `. ros2_ws/install/setup.sh` and ros2 launch
	@$(PYTHON) scripts/setup.py --system-ros

clean: ## remove what tools leave behind, keep .venv, bags and runs
	@rm -rf .cache .venv/.setup/warm .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis ros2_ws/build ros2_ws/install ros2_ws/log
	@find ros2_ws training tests scripts -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove .venv too
	@rm -rf .venv .venv-ros
