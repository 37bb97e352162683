# Everything one types in this project. `make help` lists it; `.ci/install` holds how installing works.
#
#   PORT     where `make run` listens                        (8000)
#   DATA     where the store of `make run` lies              (./data)
#   PYTHON   the interpreter that the environment is made of (the first of python3, python3.14 ... python3.11 that will do)
#   PIPARGS  further arguments for pip, such as --extra-index-url and an index of CPU builds of torch
#   ARGS     further arguments for pytest, such as -k prediction
#   FORMS IMAGES ROUTES SEED   how much `make fuzz` tries (100000, 50000, 100 a route) and from which seed (0)
#   SOAK_MINUTES   how long `make soak` takes (120)
#   CRASH    arguments for `make crash`, such as "--kills 500" or "--part bugs"
#   RACE     arguments for `make race`, such as "--shared" or "--threads 8 --publishes 256"
#
# PORT and DATA, where they are given, reach the tests too: PORT is the port that a test serves on instead of a free
# one, and what the tests write goes to DATA/test-runs instead of the system's folder for temporary files.

ifneq ($(filter command line environment,$(origin PORT)),)
  TEST_PORT := $(PORT)
endif
ifneq ($(filter command line environment,$(origin DATA)),)
  TEST_DATA := $(DATA)/test-runs
endif
PORT ?= 8000
DATA ?= ./data
PYTHON ?=
PIPARGS ?=
ARGS ?=
FORMS ?= 100000
IMAGES ?= 50000
ROUTES ?= 100
SEED ?= 0
SOAK_MINUTES ?= 120

BIN := .venv/bin
CODE := models service tests benchmarks

export PYTHON PIPARGS

.DEFAULT_GOAL := help
.PHONY: help run test test-offline fuzz race crash soak check format lock image-test clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@printf '\nPORT=%s DATA=%s   also PYTHON=, PIPARGS=, ARGS=: see the head of the Makefile\n' '$(PORT)' '$(DATA)'

run: ## install what is missing and serve on 127.0.0.1:PORT with the store under DATA
	@.ci/install run
	@exec $(BIN)/anole serve --host 127.0.0.1 --port '$(PORT)' --data '$(DATA)'

test: ## install what the tests need and run all of them
	@.ci/install test
	@$(if $(TEST_DATA),mkdir -p '$(TEST_DATA)' &&) \
	TEST_PORT='$(TEST_PORT)' $(BIN)/python -m pytest $(if $(TEST_DATA),--basetemp='$(TEST_DATA)') $(ARGS)

test-offline: ## the tests of the service without a network but the loopback (Linux)
	@.ci/install test
	@unshare --user --map-root-user --net $(BIN)/python -m tests.offline \
	$(if $(ARGS),$(ARGS),tests/unit/service tests/contract tests/integration tests/e2e)

soak: ## adapt, predict, roll back and delete for SOAK_MINUTES; prints memory, descriptors and threads on the way
	@.ci/install test
	@$(BIN)/python -m benchmarks.soak --minutes '$(SOAK_MINUTES)' $(ARGS)

fuzz: ## damaged forms, damaged images and requests made from the description: FORMS, IMAGES and ROUTES of them, from SEED
	@.ci/install test
	@FUZZ_FORMS='$(FORMS)' FUZZ_IMAGES='$(IMAGES)' FUZZ_ROUTES='$(ROUTES)' FUZZ_SEED='$(SEED)' \
	$(BIN)/python -m pytest tests/fuzz $(ARGS)

race: ## 2,048 publishes of one client by 2 x 64 threads, their recorded history judged
	@.ci/install test
	@$(BIN)/python -m tests.integration.racing $(RACE)

crash: ## kill the store 10,000 times, at every call that writes, and cut its power; then with faults seeded
	@.ci/install test
	@$(BIN)/python -m tests.crash $(CRASH)

check: ## ruff, mypy, the rules about who may import whom, hadolint
	@.ci/install dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports --no-cache
	@[ ! -x $(BIN)/hadolint ] || { echo '$(BIN)/hadolint Dockerfile' && $(BIN)/hadolint Dockerfile; }

format: ## put the code into its canonical form
	@.ci/install dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lock: ## resolve constraints.txt afresh from pyproject.toml
	@.ci/install dev
	@.ci/lock

image-test: ## build the container image without a daemon, start it as its user, adapt and predict (root, Debian)
	@.ci/image-test

clean: ## remove the environment and all caches; the store stays
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
