# Each target makes its own virtual environment and installs what it needs.
PYTHON := .venv/bin/python
STAMP := .venv/.installed
# Processes of the tests; a file's tests run in one of them.
WORKERS ?= 2

.PHONY: help setup demo ablation test test-long test-all lint bench docs clean
help:
	@echo 'make demo       a student learns to carry from its teacher, without a GPU (runs/demo/report.html)'
	@echo 'make ablation   what each part of the method does, in miniature: hours, resumable (docs/ablation.md)'
	@echo 'make test       checks and tests; make test-long: those that are slow by nature'
	@echo 'make test-all   every test, those that take hours too'
	@echo 'make bench      figures of speed against limits and peers (bench/results.json)'
	@echo 'make docs       the documentation as a site, without a network (site/index.html)'
	@echo 'make lint       style, types and the direction of imports'
	@echo 'make setup      only the virtual environment, .venv'
	@echo 'make clean      remove what these targets made'

setup: $(STAMP)

$(STAMP): setup.py constraints.txt examples/cpu_tiny/requirements.txt
	@python="$$(.ci/find-python)" && echo "using $$python" && "$$python" -m venv .venv
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dali,docs,eval,mpi,wandb,dev]'
	$(PYTHON) -m pip install --disable-pip-version-check --quiet --no-deps --requirement examples/cpu_tiny/requirements.txt
	@touch $@

demo: $(STAMP)
	$(PYTHON) -m megatron_dasd.pipeline examples/demo/pipeline.yaml

ablation: $(STAMP)
	$(PYTHON) tools/ablation.py run
	$(PYTHON) tools/ablation.py page

lint: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_imports.py

test: lint
	.ci/install-bubblewrap
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses $(WORKERS) --dist loadscope --durations 20 -m 'not slow and not exhaustive'

test-long: $(STAMP)
	.ci/install-vllm
	.ci/install-slurm
	.ci/install-bubblewrap
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses $(WORKERS) --dist loadscope --timeout 1800 --durations 40 -m 'slow and not exhaustive'

test-all: lint
	.ci/install-vllm
	.ci/install-slurm
	.ci/install-bubblewrap
	$(PYTHON) -m pytest

bench: $(STAMP)
	$(PYTHON) tools/bench.py

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

clean:
	rm -rf .venv .vllm-venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build site runs/demo runs/tiny runs/micro
