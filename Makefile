# make help lists the targets.
DATA = digits
MODELS = lenet,alexnet,nin,vgg16,googlenet
SEEDS = 0
SWEEP = five
LAUNCHER = in_process
ARGS =
PYTHON = python3
RESULTS = results/local

BIN := .venv/bin
READY := .venv/.ready
# side by side, a core each; one process more than there are cores (tests/conftest.py), as some wait for others
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup bench sweep status report speed profile test test-fast lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nmake bench takes DATA=%s MODELS=%s SEEDS=%s\nRESULTS=%s and ARGS, more settings: make bench ARGS="trainer.max_epochs=2 optimizer=sgd"\n' '$(DATA)' '$(MODELS)' '$(SEEDS)' '$(RESULTS)'
	@printf 'make sweep takes SWEEP=%s LAUNCHER=%s DATA, RESULTS and ARGS, such as ARGS=seed=0\n' '$(SWEEP)' '$(LAUNCHER)'

setup: $(READY) ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	@echo "installing PyTorch and the rest in .venv: some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

bench: $(READY) ## train the five networks, write and print the leaderboard
	$(BIN)/bench -m 'model=$(MODELS)' 'data=$(DATA)' 'seed=$(SEEDS)' 'paths.results=$(RESULTS)' $(ARGS)

sweep: $(READY) ## run a named sweep of conf/sweep: make sweep SWEEP=five DATA=cifar10 LAUNCHER=ray
	$(BIN)/bench -m '+sweep=$(SWEEP)' 'hydra/launcher=$(LAUNCHER)' 'data=$(DATA)' 'paths.results=$(RESULTS)' $(ARGS)

status: $(READY) ## how far the last sweep is: done, running, failed, waiting, time left
	$(BIN)/bench-status 'paths.results=$(RESULTS)' $(ARGS)

report: $(READY) ## rebuild leaderboard, report.html and figures from the records; ARGS=readme=FILE a page, too
	$(BIN)/bench-report 'paths.results=$(RESULTS)' $(ARGS)

speed: $(READY) ## training speed of the networks beside a bare loop and a plain stack: half an hour
	$(BIN)/bench-speed train 'paths.results=$(RESULTS)' $(ARGS)

profile: $(READY) ## parameters and MACs of all models; of nine, by size of batch, time, memory, energy (ARGS go here): ten minutes
	$(BIN)/bench-profile --all data.image_size=224 data.num_classes=1000
	$(BIN)/bench-profile --measure data=cifar10 'paths.results=$(RESULTS)' $(ARGS)

test: $(READY) ## run all tests
	$(TESTS)

test-fast: $(READY) ## run the tests that take no more than a few seconds
	$(TESTS) -m 'not slow'

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the environment and caches, keep results and data
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
