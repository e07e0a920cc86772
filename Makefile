PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
EXTRAS := cpu,readers,datasets,mteb,pyterrier,serve,langchain,llamaindex,haystack,mcp,rerankers,decoders,training,dev

.PHONY: demo test lint clean

# One environment serves the demo, the tests and the linters.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(VENV)/.ready  ## index the Python standard library's documentation, search it, evaluate
	$(BIN)/python -m sightline.data.pydocs.demo demo-out

# One thread each: torch's threads wait for one another where two processes share two cores.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The root is the package, whatever the folder is called; from inside it, kernels/ would shadow another package.
	mkdir -p .mypy_cache/path && ln -sfn ../.. .mypy_cache/path/sightline
	cd .mypy_cache/path && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p sightline

clean:
	rm -rf $(VENV) demo-out build *.egg-info
