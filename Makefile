# Two commands on a bare machine: `make run` and `make test`. Everything they need beyond Python 3.11 to 3.13 comes from the
# package registries and is installed into this folder by scripts/bootstrap.py; nothing is done twice (docs/development.md).

VENV := .venv/bin
PYTHON_SCRIPT := sh scripts/with_python.sh
NODE_TOOL := $(VENV)/python scripts/node_tool.py

.DEFAULT_GOAL := help

.PHONY: help run test stress chaos check format bench setup generate migration migration-check prisma lock clean

help: ## show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '%-24s %s\n' "$$target" "$$text"; done

run: ## install what is missing, migrate the database and serve; Ctrl-C stops
	@$(PYTHON_SCRIPT) scripts/bootstrap.py run
	@exec $(VENV)/python -m autogpt_server.app

test: setup ## run the tests in parallel; make test ARGS="-k schedule" selects some
	@exec $(VENV)/pytest -n logical $(ARGS)

stress: setup ## run the long tests with many processes
	@exec $(VENV)/pytest -m stress $(ARGS)

chaos: setup ## kill the server's processes 500 times under load, and look for what is lost, doubled or a lie; ARGS="--seed 1 --kills 50"
	@PYTHONPATH=test exec $(VENV)/python -m chaos $(ARGS)

check: setup migration-check ## format, lint, types, layers, and that migrations match schema.prisma
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	$(VENV)/lint-imports
	$(NODE_TOOL) pyright

format: setup ## format the code and repair what the linter can
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

bench: setup ## run the benchmarks; make bench ARGS=engine selects one
	@exec $(VENV)/python -m benchmarks $(ARGS)

setup: ## install everything for development, without running anything
	@$(PYTHON_SCRIPT) scripts/bootstrap.py dev

generate: ## generate the Prisma client anew; run and test do it by themselves when schema.prisma changed
	@$(PYTHON_SCRIPT) scripts/bootstrap.py run --generate

migration: setup ## write migrations/<time>_NAME/migration.sql from what changed in schema.prisma; make migration name=NAME
	@$(VENV)/python scripts/migration.py new "$(name)"

migration-check: setup ## fail unless the migrations lead to exactly schema.prisma
	@$(VENV)/python scripts/migration.py check

prisma: setup ## run the Prisma CLI; make prisma ARGS="migrate status"
	@$(NODE_TOOL) prisma $(ARGS)

lock: ## resolve poetry.lock anew after a change in pyproject.toml (ARGS=--regenerate: newest versions)
	@$(PYTHON_SCRIPT) scripts/bootstrap.py poetry
	@.tools/poetry/bin/python scripts/lock.py $(ARGS)

clean: ## remove all that make installed or generated; data and .env stay
	rm -rf .venv .tools node_modules autogpt_server/data/engine/_build
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
