# One command each: `make demo` runs the main job, `make test` the tests, `make check` the linters.
# Everything is installed into .venv from this project's own files.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-lowest check docs bench benchmarks build clean
SPREAD := -n 2 --dist loadfile  # over two processes of one thread each
SUITES := sst2 one-epoch wide three-epochs rivals frontier small-batches

$(VENV)/.demo: pyproject.toml constraints.txt
	@echo "Installing Python packages into $(VENV), once: PyTorch first (about 200 MB), then the others."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.demo
	@echo "Which library is this docstring from? MiniLM is fine-tuned on 5,000 of them: on all, with"
	@echo "finesieve, and on a random subset in finesieve's time. 1 to 3 minutes on two cores."
	@rm -rf out/demo
	@$(BIN)/finesieve compare --train docstrings:sympy+transformers --limit 5000 \
	    --eval docstrings:sympy+transformers/test --max-length 16 --batch-size 8 --lr 1e-4 \
	    --precision auto --threads 1 --clock processor --output out/demo

test: $(VENV)/.dev
	$(BIN)/ruff check finesieve tests benchmarks examples
	$(BIN)/ruff format --check --quiet finesieve tests benchmarks
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(SPREAD)

# The tests again with the lowest versions, in an environment of its own: about 6 GB on Linux, since
# the package index's torch of that time brings CUDA's libraries along.
LOWEST := .venv-lowest

$(LOWEST)/.dev: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints-lowest.txt -e '.[dev]'
	touch $@

test-lowest: $(LOWEST)/.dev
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q $(SPREAD)

check: $(VENV)/.dev
	$(BIN)/ruff check finesieve tests benchmarks examples
	$(BIN)/ruff format --check --quiet finesieve tests benchmarks
	$(BIN)/mypy

# The site needs no torch, so it has a small environment of its own. Strict: a warning is an error.
$(VENV)-docs/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(PYTHON) -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    print(*extras["optional-dependencies"]["docs"], sep="\n")' > $(VENV)-docs/wanted.txt
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints.txt -r $(VENV)-docs/wanted.txt
	touch $@

docs: $(VENV)-docs/.done
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict
	@echo "The site is in build/site/index.html; with search: $(VENV)-docs/bin/mkdocs serve"

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/overhead.py

benchmarks: $(VENV)/.dev  # make benchmarks DATA=folder: every published suite, about 9 hours on 2 cores
	@test -d "$(DATA)" || { echo "DATA=$(DATA) is no folder: make benchmarks DATA=folder"; exit 2; }
	for s in $(SUITES); do \
	    $(BIN)/finesieve bench benchmarks/$$s.toml --data-dir "$(DATA)" --output results/$$s || exit; \
	done
	$(BIN)/python benchmarks/never_slower.py --data-dir "$(DATA)" --output results/never-slower.json
	$(BIN)/python benchmarks/tasks.py --data-dir "$(DATA)" --output results/tasks
	$(BIN)/python benchmarks/tricks.py --data-dir "$(DATA)" --output results/tricks
	$(BIN)/python benchmarks/write_tables.py

build: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(VENV)-docs $(LOWEST) build dist out *.egg-info
