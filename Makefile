# Two commands matter: `make sweep` runs the main job, `make test` the tests. Both set up .venv first.

PYTHON ?= python3
BIN := .venv/bin
# The lock file pins every package; pyproject.toml holds the ranges.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock
# Tests spend more time waiting (for processes, servers and sleeps) than computing.
TEST_PROCESSES ?= 3

.PHONY: sweep test test-all chaos coverage mutants bench archive check format lock clean

sweep: .venv/installed  ## the demo: drawn pets, 3 variants × 3 seeds, on this machine, into results/
	$(BIN)/python jobs/sweep.py demo

test: .venv/installed-dev  ## the test suite, on the CPU
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m "not slow and not chaos"

test-all: test  ## the slow tests too, two at a time, and those of a file, which share its clusters, one after another
	$(BIN)/python -m pytest -n 2 --dist loadfile --timeout 1200 -m "slow and not chaos"

chaos: .venv/installed-dev  ## a night of faults: dying workers, nodes, drivers and heads; an unavailable store
	$(BIN)/python -m pytest -m chaos -rA --capture=tee-sys

bench: .venv/installed-bench  ## overhead over bare training: writes benchmarks/RESULTS.md; takes an hour on an otherwise idle machine
	$(BIN)/python benchmarks/run.py

archive: .venv/installed  ## RUN=NAME: a finished run for this repository: its report, and its trials' small files in one archive
	$(BIN)/python jobs/publish.py --run $(RUN) --to build/published
	mkdir -p results/published/$(RUN)
	cp -r build/published/$(RUN)/report results/published/$(RUN)/
	cd build/published && find $(RUN) -path $(RUN)/report -prune -o -type f -print | awk -F/ '{ print $$NF, $$0 }' \
		| sort | cut -d" " -f2 | XZ_OPT=-9e tar --mtime=@0 --owner=0 --group=0 --files-from=- \
		-cJf ../../results/published/$(RUN)/trials.tar.xz

coverage: .venv/installed-dev  ## line coverage of catdog/ and jobs/, workers included; fails below the floor
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m "not slow and not chaos" --cov --cov-report=
	$(BIN)/coverage report

mutants: .venv/installed-mutants  ## do the tests notice 400 small changes to the code? takes hours; run again, it continues
	$(BIN)/python tests/mutants.py

check: .venv/installed-dev  ## lint, types, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/installed-dev  ## the newest version of every package into requirements.lock, within pyproject.toml's ranges
	$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
		--no-annotate --custom-compile-command "make lock" --upgrade --output-file requirements.lock

clean:
	rm -rf .venv

.venv/installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable ".[lite0]"
	touch $@

.venv/installed-%: .venv/installed
	$(PIP) --editable ".[lite0,$*]"
	touch $@
