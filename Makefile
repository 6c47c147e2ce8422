# The one entry for developers. Everything runs in a private venv made from the hashed lock; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.locked

.PHONY: help demo test check-all lint serve deb bench bench-days bench-evidence bench-100m failover patroni faults boot scans crash kills model history mistake mutants soak fuzz timing lock audit clean
help:
	@sed -n 's/^## //p' Makefile

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "registryd needs Python >= 3.11: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --no-index -e .
	@touch $@

## make demo    a private PostgreSQL, made-up contracts and the whole story, then it goes on serving
demo: $(STAMP)
	@$(BIN)/registryd demo $(ARGS)

## make test    linters, types, import contracts and the tests, two or more at a time (ARGS='tests/http -k batch' narrows it)
TOGETHER := -n auto --maxprocesses 4 --dist worksteal
test: lint
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest $(TOGETHER) -m "not alone and not campaign"
	$(BIN)/python -m pytest -m "alone and not campaign" || test $$? -eq 5 # there may be none
endif

## make check-all  make test in its long form, then crash, failover, scans, history, mutants, mistake, fuzz, timing and each bench at a hundredth
check-all: lint
	REGISTRYD_LONG=1 $(BIN)/python -m pytest $(TOGETHER) -m "not alone"
	REGISTRYD_LONG=1 $(BIN)/python -m pytest -m alone || test $$? -eq 5
	$(MAKE) lint-api
	$(MAKE) ARGS= crash failover scans history mutants
	$(MAKE) ARGS="--scale 0.1" mistake
	$(MAKE) ARGS="--seconds 30" fuzz
	$(MAKE) ARGS="--scale 0.1" timing
	$(MAKE) ARGS="--scale 0.01" bench

## make lint    ruff, mypy --strict, import-linter
lint: $(STAMP)
	$(BIN)/ruff check registryd systemd tests
	$(BIN)/ruff format --check registryd systemd tests
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: lint-api
## make lint-api  redocly and spectral on messenger.yaml and operator.yaml, fetched from npm; where there is no npx it says so
LINT_API := REDOCLY_TELEMETRY=off npm_config_ignore_scripts=true npx --yes
lint-api:
	@command -v npx >/dev/null || { echo "lint-api: left out, because there is no npx here (Debian: npm)"; exit 0; }; set -e; \
	$(LINT_API) @redocly/cli@2.77.0 lint --extends=recommended-strict registryd/http/messenger.yaml registryd/http/operator.yaml; \
	$(LINT_API) @stoplight/spectral-cli@6.16.3 lint --fail-severity=hint -r tests/contracts/spectral.yaml registryd/http/messenger.yaml registryd/http/operator.yaml

## make serve   the daemon on a configuration of yours: make serve CONFIG=./registryd.toml
CONFIG ?= registryd.toml
serve: $(STAMP)
	$(BIN)/registryd --config $(CONFIG) serve

## make crash   kill -9 of one of two processes that deliver, 50 times at each named point of a delivery (CRASHES=n)
CRASHES ?= 50
crash: $(STAMP)
	REGISTRYD_CRASHES=$(CRASHES) $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/delivery/test_crash.py -k named_point

## make kills   SIGKILL of one process of each role under load: the others' p99 before and after, and what was lost
kills: $(STAMP)
	$(BIN)/python -m tests.bench.kills

## make model   15,000 random steps of billing, messengers, deliveries and persons against a plain model of the registry
model: $(STAMP)
	REGISTRYD_LONG=1 $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/model/test_model.py

## make history   200,000 operations of 16 clients over HTTP: some order of them must explain every answer (ARGS='--operations N --seed N')
history: $(STAMP)
	$(BIN)/python -m tests.history $(ARGS)

## make mistake   200,000 of a million contracts end by mistake: held, told to nobody, undone by two persons (ARGS='--scale 0.1')
mistake: $(STAMP)
	$(BIN)/python -m tests.model.mistake $(ARGS)

## make mutants   plants each terrible bug of a list in a copy of the tree and shows whether its test catches it (ARGS='presence.sql --json FILE')
mutants: $(STAMP)
	@$(BIN)/python -m tests.mutants $(ARGS)

## make soak   half an hour of everything at 60 % load: memory, descriptors, dead rows, notices, errors (ARGS='--minutes 5 --share 0.2')
soak: $(STAMP)
	@$(BIN)/python -m tests.soak $(ARGS)

## make deb     the Debian package of this checkout, for Debian 12: dist/registryd_VERSION_ARCHITECTURE.deb
deb: $(STAMP)
	@$(BIN)/python -m systemd.debian.build $(ARGS)

## make bench   what it does in a second here, beside baselines of the same run (ARGS='queries --scale 10 --json FILE')
bench: $(STAMP)
	$(BIN)/python -m tests.bench $(ARGS)

## make bench-days   the hot statement, a look-up and the reports with ten days of partitions and with three years
bench-days: $(STAMP)
	$(BIN)/python -m tests.bench.days

## make bench-evidence   what a seal costs, a million pages verified, a number searched for in them
bench-evidence: $(STAMP)
	$(BIN)/python -m tests.bench.evidence

## make bench-100m   what a query costs among 100 million contracts: 12 GB, ten minutes or more (ARGS='--data DIR --json FILE')
bench-100m: $(STAMP)
	$(BIN)/python -m tests.bench growth --scale 10 $(ARGS)

## make failover   the outage when a primary is stopped, killed or hung and its standby promoted (ARGS='--rounds 5 --delay 15')
failover: $(STAMP)
	$(BIN)/python -m tests.failover $(ARGS)

## make patroni   a Patroni cluster of three loses its primary in ten ways under load (ARGS='stop-postgres --mode asynchronous --haproxy --json FILE')
patroni: $(STAMP)
	@$(BIN)/python -m tests.patroni $(ARGS)

## make boot   a Debian 12 under its own systemd: install, break, upgrade, remove by the documents' blocks; as root (ARGS='--dir D --json F')
boot: $(STAMP)
	@$(BIN)/python -m tests.boot $(ARGS)

## make faults   partition, slow database, full disks, wrong clocks, open snapshot, bad endpoints, each beside its target (ARGS='slow --json FILE')
faults: $(STAMP)
	@$(BIN)/python -m tests.faults $(ARGS)

## make scans   what the enumeration guard finds after how much, and what wrongly: ten million honest queries, thousands of scans
scans: $(STAMP)
	@$(BIN)/python -m tests.presence.scans $(ARGS)

## make timing  220,000 queries: can present and absent, or ended and unknown, be told apart by time (ARGS='1 2 --scale 0.1')
timing: $(STAMP)
	@$(BIN)/python -m tests.fuzz.timing $(ARGS)

## make fuzz    atheris and schemathesis against both APIs, hidden requests through HAProxy and nginx: ten minutes (ARGS='bodies --seconds 600')
fuzz: $(STAMP)
	@$(BIN)/python -m tests.fuzz $(ARGS)

## make lock    resolve the dependencies anew into the hashed lock files
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-config
lock: $(STAMP)
	$(BIN)/$(LOCK) pyproject.toml -o requirements.lock
	$(BIN)/$(LOCK) -c requirements.lock --extra dev pyproject.toml -o requirements-dev.lock

## make audit   known vulnerabilities in what is locked
audit: $(STAMP)
	$(BIN)/pip-audit --require-hashes --disable-pip -r requirements.lock

## make clean   removes the venv, the programs that tests fetched and all caches
clean:
	rm -rf $(VENV) .campaign .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
