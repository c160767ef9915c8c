# Every target does its own set-up; the second run starts in seconds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TIMM := .timm/.ready
TRITON37 := .triton37/.ready
PYTEST := $(BIN)/python -m pytest --durations=15 --durations-min=5
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(PYTEST) --numprocesses=4 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test check long clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with everything (the other targets do it for you)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Apart from the others, and without what it depends on: beside a CPU build of torch its torchvision
# would keep transformers from being imported. Tests that need it say so where it cannot be had.
$(TIMM): $(READY)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .timm \
		timm==1.0.31 torchvision==0.28.0 && touch $@

# What PyTorch's CUDA builds bring; kernels are compiled with it, too.
$(TRITON37): $(READY)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .triton37 \
		triton==3.7.1 && touch $@

demo: $(READY) ## Serve the demo model, send it a burst, compare with fixed levels (about 3 minutes)
	$(BIN)/foveate demo

# Side by side, in four processes of one thread, since many tests wait: kernels in Triton's interpreter,
# which must be chosen before Triton is imported, and all that starts no server. A file stays whole,
# for its tests share things.
# Alone: what starts a server (the mark "alone"). Without a processor a server gives up, and a latency
# table measured beside other work would be wrong for good.
test: $(READY) $(TIMM) $(TRITON37) ## Run the tests: kernels in Triton's interpreter, the rest on the real server
	TRITON_INTERPRET=1 $(SIDE_BY_SIDE) tests/interpreter
	$(SIDE_BY_SIDE) -m "not alone"
	$(PYTEST) -m alone

check: $(READY) ## Lint, type-check, look for known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

long: $(READY) ## Long measurements; writes benchmarks/results/*.json
	$(BIN)/python -m foveate_benchmarks

clean: ## Remove what the other targets made
	rm -rf $(VENV) .timm .triton37 .mypy_cache .pytest_cache .ruff_cache .hypothesis .state build dist
