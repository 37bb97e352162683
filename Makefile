# All commands of this project. `make help` lists them.
#
#   PORT     port of `make run` (8000)
#   DATA     folder of the store of `make run` (./data)
#   PYTHON   interpreter for .venv (default: the first usable one of python3, python3.14 ... python3.11)
#   PIPARGS  extra arguments for pip, such as --extra-index-url with an index of CPU builds of torch
#   ARGS     extra arguments for pytest, such as -k prediction
#   JOBS     number of processes of `make test`: a number or auto, which is one per core and at most 4 (auto)
#   FORMS IMAGES ROUTES SEED   number of cases of `make fuzz` (100000, 50000, 100 per route) and their seed (0)
#   SOAK_MINUTES   duration of `make soak` (120)
#   MINUTES   duration of `make bridge-soak` (60)
#   CRASH    arguments for `make crash`, such as "--kills 500" or "--part bugs"
#   MUTATE_MINUTES   time limit of `make mutate` (30); ARGS="models.validation.*" selects what it changes
#   RACE     arguments for `make race`, such as "--shared" or "--threads 8 --publishes 256"
#
# If you set PORT or DATA, the tests use them too: they serve on PORT instead of a free port, and write to DATA/test-runs.
# Otherwise they write to TMPDIR; if that is not set either, to memory (/dev/shm), or to /tmp if there is too little.

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
JOBS ?= auto
ARGS ?=
FORMS ?= 100000
IMAGES ?= 50000
ROUTES ?= 100
SEED ?= 0
SOAK_MINUTES ?= 120
MINUTES ?= 60
MUTATE_MINUTES ?= 30

BIN := .venv/bin
FEDERATED := FLWR_TELEMETRY_ENABLED=0 PYTHONPATH=. .venv-federated/bin/python
CODE := models service tests benchmarks

export PYTHON PIPARGS

.DEFAULT_GOAL := help
.PHONY: help run test test-offline fuzz race crash soak bridge-soak mutate federated-demo federated-network ray-test check docs sbom audit format proto lock image-test clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22
	@printf '\nPORT=%s DATA=%s   the comment at the top of the Makefile lists all variables\n' '$(PORT)' '$(DATA)'

run: ## install and serve on 127.0.0.1:PORT, with the store in DATA
	@.ci/install run
	@exec $(BIN)/anole serve --host 127.0.0.1 --port '$(PORT)' --data '$(DATA)'

test: ## install and run all tests
	@.ci/install test
	@$(if $(TEST_DATA),mkdir -p '$(TEST_DATA)' &&) \
	TEST_PORT='$(TEST_PORT)' $(BIN)/python -m pytest $(if $(TEST_DATA),--basetemp='$(TEST_DATA)') \
	-n '$(JOBS)' --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-offline: ## run the tests of the service with no network except loopback (Linux)
	@.ci/install test
	@unshare --user --map-root-user --net $(BIN)/python -m tests.offline \
	$(if $(ARGS),$(ARGS),tests/unit/service tests/contract tests/integration tests/e2e)

soak: ## send requests for SOAK_MINUTES and print memory, descriptors and threads
	@.ci/install test
	@$(BIN)/python -m benchmarks.soak --minutes '$(SOAK_MINUTES)' $(ARGS)

bridge-soak: ## send verdicts for MINUTES to a broker that is killed once per minute, and count them (needs mosquitto)
	@.ci/install test
	@$(BIN)/python -m benchmarks.bridge_soak --minutes '$(MINUTES)' $(ARGS)

fuzz: ## send malformed forms, malformed images and requests generated from the OpenAPI description
	@.ci/install test
	@FUZZ_FORMS='$(FORMS)' FUZZ_IMAGES='$(IMAGES)' FUZZ_ROUTES='$(ROUTES)' FUZZ_SEED='$(SEED)' \
	$(BIN)/python -m pytest tests/fuzz $(ARGS)

race: ## publish 2,048 versions of one client from 2 x 64 threads and check the recorded history
	@.ci/install test
	@$(BIN)/python -m tests.integration.racing $(RACE)

crash: ## kill the store 10,000 times, on PostgreSQL and S3 too, simulate power loss, and repeat with seeded faults
	@.ci/install test
	@$(BIN)/python -m tests.crash $(CRASH)

mutate: ## change the code in small ways, and list the changes that no test detects
	@.ci/install dev
	@OMP_NUM_THREADS=1 timeout --signal INT '$(MUTATE_MINUTES)m' $(BIN)/mutmut run $(if $(ARGS),'$(ARGS)') || [ $$? = 124 ]
	@$(BIN)/mutmut results

.venv-federated/installed: deploy/federated/pyproject.toml
	@$(or $(PYTHON),python3) -m venv .venv-federated
	@.venv-federated/bin/pip install $(PIPARGS) -e './deploy/federated[test]'
	@touch .venv-federated/installed

federated-demo: .venv-federated/installed ## test and run clinics that learn together, on Flower in .venv-federated
	@$(FEDERATED) -m pytest -q -c deploy/federated/pyproject.toml deploy/federated
	@$(FEDERATED) deploy/federated/demo.py $(ARGS)

federated-network: .venv-federated/installed ## the same as separate processes with TLS, one of which is killed
	@PATH="$$PWD/.venv-federated/bin:$$PATH" PYTHONPATH="$$PWD" FLWR_TELEMETRY_ENABLED=0 \
	.venv-federated/bin/python deploy/federated/network_demo.py $(ARGS)

check: ## run ruff, mypy, import-linter and hadolint
	@.ci/install dev
	$(BIN)/ruff check $(CODE) deploy docs
	$(BIN)/ruff format --check $(CODE) deploy docs
	$(BIN)/mypy --num-workers 2 $(CODE) deploy/federated
	$(BIN)/lint-imports --no-cache
	@[ ! -x $(BIN)/hadolint ] || { echo '$(BIN)/hadolint Dockerfile' && $(BIN)/hadolint Dockerfile; }

docs: ## build the documentation into build/docs, with all links checked and nothing from other hosts
	@.ci/install docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml
	@echo "docs: open build/docs/index.html; for the search, run '$(BIN)/python -m http.server -d build/docs 8010' and open"
	@echo "      http://127.0.0.1:8010"

sbom: ## list the packages in .venv with their licences in build/sbom.json (CycloneDX)
	@.ci/install audit
	@mkdir -p build
	@$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible -o build/sbom.json
	@echo "sbom: build/sbom.json"

audit: ## look up known vulnerabilities of the packages in constraints.txt; needs the JSON interface of pypi.org
	@.ci/install audit
	@$(BIN)/python .ci/audit

format: ## format the code
	@.ci/install dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

proto: ## write the Python modules of the .proto files
	@.ci/install dev
	@.ci/proto

lock: ## update constraints.txt from pyproject.toml
	@.ci/install dev
	@.ci/lock

ray-test: ## install Ray and run the tests of `anole serve --engine ray`
	@.ci/install test
	@$(BIN)/python -c 'import ray.serve' 2>/dev/null || $(BIN)/pip install $(PIPARGS) -q -c constraints.txt -e '.[ray]'
	@RAY_worker_niceness=0 $(BIN)/python -m pytest tests/unit/service/cluster tests/e2e/test_ray.py $(ARGS)

image-test: ## build the container image without a daemon and test it (root, Debian)
	@.ci/image-test

clean: ## remove .venv and all caches, but not the store
	rm -rf .venv .venv-federated .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache mutants build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
