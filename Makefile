# The commands of this project; `make help` lists them. Recipes are plain sh, paths are
# relative (a checkout path with spaces works) and stamps keep a second run from installing.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train pretrain overfit report plan test test-slow test-torch test-plan lint format clean clean-data

# The first Python that is new enough; choose another with `make PYTHON=/path/to/python3`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$p"; break; }; done)

CONFIG  ?= configs/quickstart.py
WORKDIR ?= runs/quickstart
# The quickstart's few rows do not divide over 64 chips.
TOPOLOGY ?= $(if $(filter configs/quickstart.py,$(CONFIG)),v5e:2x2,v5p:4x4x4)
ARGS    ?=

BIN      := .venv/bin/python
PIP      := -m pip install --quiet --disable-pip-version-check --use-pep517
PREPARED := data/prepared/pictures/manifest.json
# Each worker of the tests has eight CPU devices of its own, so few workers are enough.
PYTEST   := -m pytest -n 2 --dist loadfile

export PYTHONUNBUFFERED := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

help: ## List the targets
	@echo "Targets (variables: PYTHON, CONFIG, WORKDIR, TOPOLOGY, ARGS):"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 @\2/p' Makefile \
	| awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

train: .venv/run.stamp $(PREPARED) ## Prepare the embedded pictures, train, evaluate, report
	@$(BIN) -m unitoken_jax.train --config "$(CONFIG)" --workdir "$(WORKDIR)" $(ARGS)

pretrain: .venv/run.stamp $(PREPARED) ## Train anew the parts that `train` starts from (an hour)
	@$(BIN) -m unitoken_jax.train --config configs/pretrain_pictures.py \
	  --workdir runs/pretrain_pictures --stage start $(ARGS)
	@[ -f runs/pretrain_pictures/start.safetensors ] || \
	  $(BIN) -m unitoken_jax.train.codebook --input runs/pretrain_pictures/start \
	  --data data/prepared/pictures --output runs/pretrain_pictures/start.safetensors
	@$(BIN) -m unitoken_jax.train --config configs/pretrain_pictures.py \
	  --workdir runs/pretrain_pictures $(ARGS)

overfit: .venv/run.stamp $(PREPARED) ## Learn one picture by heart, to try new hardware
	@$(BIN) -m data_pipelines.pick --input data/prepared/pictures \
	  --output data/prepared/one
	@$(BIN) -m unitoken_jax.train --config configs/overfit_one.py \
	  --workdir runs/overfit_one $(ARGS)

report: .venv/run.stamp ## Rebuild the report page of WORKDIR
	@$(BIN) -m unitoken_jax.report --workdir "$(WORKDIR)"

plan: .venv-plan/plan.stamp ## Compile the step of CONFIG for TPUs of TOPOLOGY, predict its time
	@.venv-plan/bin/python -m unitoken_jax.plan --config "$(CONFIG)" \
	  --topology "$(TOPOLOGY)" $(ARGS)

test: .venv/dev.stamp ## Run the fast tests (ARGS="-k name" narrows them)
	@$(BIN) $(PYTEST) -m "not slow" $(ARGS)

test-slow: .venv/dev.stamp ## Run the slow tests
	@$(BIN) $(PYTEST) -m slow $(ARGS)

test-torch: .venv-torch/torch.stamp ## Compare with PyTorch, in an environment of its own
	@.venv-torch/bin/python -m pytest tests_torch $(ARGS)

test-plan: .venv-plan/plan.stamp ## Compile for TPUs with libtpu, in an environment of its own
	@.venv-plan/bin/python -m pytest tests/plan $(ARGS)

lint: .venv/dev.stamp ## Check style, formatting and types
	@$(BIN) -m ruff check .
	@$(BIN) -m ruff format --check .
	@$(BIN) -m pyright --pythonpath $(BIN)

format: .venv/dev.stamp ## Sort imports, mend what can be mended, format
	@$(BIN) -m ruff check --fix .
	@$(BIN) -m ruff format .

clean: ## Remove the environments and caches (runs and prepared data stay)
	rm -rf .venv .venv-torch .venv-plan .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: ## Remove the prepared data, which `make train` makes again
	rm -rf data/prepared

# The manifest is written last, so it exists only in a complete data set. The command
# itself finds out whether anything changed that the data depends on.
$(PREPARED): data/pictures.zip $(wildcard data_pipelines/prepare/*.py) | .venv/run.stamp
	@$(BIN) -m data_pipelines.prepare --input data/pictures.zip \
	  --output data/prepared/pictures --overwrite
	@touch $@

define create_environment # 1: folder
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed, and neither python3.11 … python3.13 nor python3 is one: install it, or name one with make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or newer: name one with make PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -m venv $(1) || { echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)"; exit 1; }
endef

# 1: environment, 2: requirements file, 3: options of pip. pip is quiet, so say what it is doing.
define install
	@echo "Installing $(2) into $(1) (some minutes the first time, silent until done)"
	@$(1)/bin/python $(PIP) $(3) -r $(2) || { echo "Installing $(2) failed; the message above is pip's. Check the network, then run the same command again."; exit 1; }
	@touch $@
endef

.venv/made.stamp:
	$(call create_environment,.venv)
	@touch $@

.venv/run.stamp: requirements.txt | .venv/made.stamp
	$(call install,.venv,requirements.txt)

.venv/dev.stamp: requirements-dev.txt requirements.txt | .venv/made.stamp
	$(call install,.venv,requirements-dev.txt)
	@touch .venv/run.stamp

.venv-torch/made.stamp:
	$(call create_environment,.venv-torch)
	@touch $@

.venv-torch/torch.stamp: requirements-torch.txt requirements-torch-alone.txt requirements.txt | .venv-torch/made.stamp
	$(call install,.venv-torch,requirements-torch.txt)
	$(call install,.venv-torch,requirements-torch-alone.txt,--no-deps)

.venv-plan/made.stamp:
	$(call create_environment,.venv-plan)
	@touch $@

.venv-plan/plan.stamp: requirements-plan.txt requirements-dev.txt requirements.txt | .venv-plan/made.stamp
	$(call install,.venv-plan,requirements-plan.txt)
	$(call install,.venv-plan,requirements-dev.txt)
