# make setup prepares the machine and .venv; every other target does that first when it has not been done.
# Everything stays inside the repo (.venv, .cache, build) but the Debian packages that setup installs.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SETUP := $(VENV)/.setup-done
EXTENSION := build/extension-done

# Downloaded kernels and packages: kept by `make clean`, reused offline.
export VHOSTFS_CACHE ?= $(CURDIR)/.cache
export VHOSTFS_SHARED ?= $(abspath $(CURDIR)/../shared)

C_SOURCES := $(wildcard native/c/*.c)
C_HEADERS := $(wildcard native/c/*.h native/decl/*.h)
C_FLAGS := -std=gnu11 -D_GNU_SOURCE -g -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wno-unused-parameter -fno-strict-aliasing -pthread \
	-Inative/c -Inative/decl
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
C_OBJECTS := $(C_SOURCES:native/c/%.c=build/sanitized-c/%.o)
# (gcc warns that its model of threads knows no fences: it may report what one orders, which none of ours is)
TSAN := -fsanitize=thread -Wno-tsan -fno-omit-frame-pointer
TSAN_OBJECTS := $(C_SOURCES:native/c/%.c=build/tsan-c/%.o)
TSAN_TESTS := $(patsubst tests/native/%.c,build/tsan-c/%,$(wildcard tests/native/test_*.c))
C_TESTS := $(patsubst tests/native/%.c,build/sanitized-c/%,$(wildcard tests/native/test_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
# Of each fuzz target by `make fuzz`. What is found stays in build/fuzz, and the corpus too.
FUZZ_SECONDS ?= 60

# What `make test-sanitized` runs: the suites in which C does the work.
SANITIZED_TESTS ?= tests/native tests/vhostfs tests/guest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SECONDARY: $(C_OBJECTS) $(TSAN_OBJECTS)
.DELETE_ON_ERROR:
.PHONY: help setup build lint warnings test-c test-tsan test test-long test-sanitized demo bench fuzz clean

help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(SETUP) ## install what is missing (apt, .venv); no network when nothing is
$(SETUP): .ci/setup-machine pyproject.toml
	@.ci/setup-machine $(PYTHON)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

build: $(EXTENSION) ## compile the native extension in place
$(EXTENSION): $(SETUP) setup.py native/build_dataplane.py $(C_SOURCES) $(C_HEADERS)
	@mkdir -p $(@D)
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

lint: $(EXTENSION) ## ruff and mypy
	$(PY) -m ruff check --quiet .
	$(PY) -m ruff format --check --quiet .
	$(PY) -m mypy

warnings: $(SETUP) ## the C sources under gcc and clang, every warning an error
	@echo gcc and clang -Werror: native/c
	@set -e; for compiler in gcc clang; do for source in $(C_SOURCES); do \
		$$compiler $(C_FLAGS) -O2 -c -o /dev/null $$source; done; done

test-c: $(C_TESTS) $(FUZZERS:%=build/sanitized-c/%) ## C tests, and some rounds of each fuzz target, under ASan and UBSan
	@set -e; for program in $^; do echo $$program; $$program; done

test-tsan: $(TSAN_TESTS) ## the same C tests under ThreadSanitizer: queues, pools, parked requests, tables
	@set -e; for program in $^; do echo $$program; TSAN_OPTIONS=halt_on_error=1 $$program; done

build/tsan-c/%.o: native/c/%.c $(C_HEADERS) | $(SETUP)
	@mkdir -p $(@D)
	@echo gcc $<
	@gcc $(C_FLAGS) $(TSAN) -O1 -c -o $@ $<

build/tsan-c/test_%: tests/native/test_%.c $(wildcard tests/native/*.h) $(TSAN_OBJECTS) $(C_HEADERS) | $(SETUP)
	@mkdir -p $(@D)
	@echo gcc $<
	@gcc $(C_FLAGS) $(TSAN) -O1 -Itests/native -o $@ $< $(TSAN_OBJECTS) -lseccomp

build/sanitized-c/%.o: native/c/%.c $(C_HEADERS) | $(SETUP)
	@mkdir -p $(@D)
	@echo gcc $<
	@gcc $(C_FLAGS) $(SANITIZE) -O1 -c -o $@ $<

build/sanitized-c/test_%: tests/native/test_%.c $(wildcard tests/native/*.h) $(C_OBJECTS) $(C_HEADERS) | $(SETUP)
	@mkdir -p $(@D)
	@echo gcc $<
	@gcc $(C_FLAGS) $(SANITIZE) -O1 -Itests/native -o $@ $< $(C_OBJECTS) -lseccomp

build/sanitized-c/fuzz_%: tests/fuzz/fuzz_%.c tests/fuzz/rounds.c tests/fuzz/fuzz.h $(wildcard tests/native/*.h) $(C_OBJECTS) | $(SETUP)
	@echo gcc $<
	@gcc $(C_FLAGS) $(SANITIZE) -O1 -Itests/native -Itests/fuzz -o $@ $< tests/fuzz/rounds.c $(C_OBJECTS) -lseccomp

build/fuzz/fuzz_%: tests/fuzz/fuzz_%.c tests/fuzz/fuzz.h $(wildcard tests/native/*.h) $(C_SOURCES) $(C_HEADERS) | $(SETUP)
	@mkdir -p $(@D)
	@echo clang $<
	@clang $(C_FLAGS) $(SANITIZE) -fsanitize=fuzzer -O1 -Itests/native -Itests/fuzz -o $@ $< $(C_SOURCES) -lseccomp

fuzz: $(FUZZERS:%=build/fuzz/%) $(FUZZERS:%=build/sanitized-c/%) ## tests/fuzz with libFuzzer, FUZZ_SECONDS each
	@set -e; cd build/fuzz; for target in $(FUZZERS); do echo $$target; mkdir -p corpus-$$target; \
		../sanitized-c/$$target --seeds corpus-$$target; \
		./$$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -verbosity=0 \
			-artifact_prefix=$$target- corpus-$$target; done

test: lint warnings test-c ## everything: lint, C warnings, C tests, pytest
	$(PY) -m pytest

test-long: $(EXTENSION) ## the tests that take long, and only those: an hour or two
	$(PY) -m pytest -m long

test-sanitized: $(SETUP) ## SANITIZED_TESTS with the extension under ASan and UBSan
	.ci/test-sanitized $(PY) $(SANITIZED_TESTS)

demo: $(EXTENSION) ## build an image, boot a VM on it, show what was fetched
	$(PY) -m bench.demo

bench: $(EXTENSION) ## the figures, each beside its peer in the same run
	$(PY) -m bench

clean: ## remove what was built; .venv and .cache stay
	rm -rf build native/_dataplane.c native/*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
