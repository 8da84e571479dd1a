# `make demo` runs the main job, `make test` all tests; both set up what is missing first.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
BIN := .venv/bin

.PHONY: demo test check screenshots setup clean

demo: setup
	$(SUDO) $(BIN)/python mininet/demo.py

test:
	@scripts/set-up tests
	$(MAKE) --no-print-directory check
	$(BIN)/pytest tests/processes -n 4 --dist loadfile --no-loadscope-reorder
	$(SUDO) env CI=$(CI) $(BIN)/pytest tests/network -p no:cacheprovider

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=mininet:bench $(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/pytest tests/unit tests/property -n 2

screenshots:
	@scripts/set-up tests
	$(SUDO) $(BIN)/python scripts/screenshots

setup:
	@scripts/set-up

clean:
	rm -rf .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
