# make demo: set up, compile GPT-2 124M to C, train a small GPT and let it speak
# make test: set up, then run every check

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(BIN)/gptc compile models/gpt2-124m.yaml
	$(BIN)/gptc train models/gpt2-nano.yaml
	$(BIN)/gptc generate models/gpt2-nano.yaml --prompt "def " --tokens 300 --temperature 0.7

test: $(VENV)/installed lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check gptc tests bench
	$(BIN)/ruff format --check gptc tests bench
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build runs
