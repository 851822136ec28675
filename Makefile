# Every target sets up a virtual environment on its first call and finds it there afterwards.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
OLAH := $(VENV)/olah/.installed

.PHONY: help demo test sanitize lint fix readme cards benchmark gpu
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

$(READY): pyproject.toml setup.py $(wildcard timm_layeract/kernels/cpu/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# The Hub server that tests read from, apart because it brings other versions of our dependencies.
$(OLAH): $(READY)
	$(PYTHON) -m venv $(VENV)/olah
	$(VENV)/olah/bin/python -m pip install --quiet --disable-pip-version-check 'olah>=0.5.4'
	touch $@

demo: $(READY)  ## Fine-tune a pretrained LA-SiLU network on real digits, save it, load it again
	$(BIN)/python scripts/demo.py

test: $(READY) $(OLAH)  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

sanitize: $(READY)  ## Run the kernels' tests and a fuzzer on a build that finds wrong accesses to memory
	$(BIN)/python scripts/sanitize.py

lint: $(READY)  ## Check style, types, and that README and cards follow the manifest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/readme.py --check
	$(BIN)/python scripts/cards.py --check

fix: $(READY)  ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: $(READY)  ## Write the README's tables of results anew from their JSON
	$(BIN)/python scripts/readme.py

cards: $(READY)  ## Write hub_cards/, the model cards, anew from the manifest
	$(BIN)/python scripts/cards.py

benchmark: $(READY)  ## Time LayerAct beside what it competes with; writes benchmarks/
	$(BIN)/python -m benchmarks.run

# No new environment: a machine with a GPU often has torch, and no network.
gpu:  ## On a machine with a GPU: test the kernels there, time them, say what misses a bar
	$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu
