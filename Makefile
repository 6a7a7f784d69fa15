# SPDX-License-Identifier: GPL-2.0-or-later
# Everything is built into .venv and build. Only the targets that need clang or QEMU install Debian's packages for them,
# as root; as anybody else they say which. `make help` lists the targets: the text after a target's two number signs is
# its line there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SYSROOT := $(CURDIR)/$(VENV)/sysroot
FUZZ_SECONDS ?= 20
FUZZ_SEED ?= 1
BUILD_TYPE ?= Release
CLANG ?= $(firstword $(shell for one in clang clang-14 clang-15 clang-16; do command -v $$one; done; true))
JOBS := $(shell nproc)
QUICK := tests/control tests/schema tests/xenstore tests/engine tests/repository
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# What pyproject.toml lists for each of some extras: the one list of development packages.
EXTRAS := $(BIN)/python -c 'import sys, tomllib; \
	extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*(package for name in sys.argv[1:] for package in extras[name]))'
CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DSVQ_SYSROOT=$(SYSROOT) \
  -S c_helpers
C_FILES = $(shell find c_helpers dom0_backend domU_frontend tests -name '*.[ch]')
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help demo xen-demo bench bench-fairness report report-quick bundle check test test-c test-race test-fuzz \
  test-py test-model test-module test-commands test-xen test-xen-next-life coverage lint format generate build \
  build-c build-race debug clean tools-for-xen tools-for-tests
.DEFAULT_GOAL := help

help: ## this list
	@echo "ShadowVQ: make TARGET, where TARGET is one of"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 18

# --- to try it ---------------------------------------------------------------------------------------------------

demo: build ## the product on the embedded machine, and an attack on it (IMAGE=disk.img: your image)
	$(BIN)/shadowvq demo $(if $(IMAGE),--image "$(IMAGE)")

xen-demo: build $(VENV)/.dev tools-for-xen ## the same in a Linux guest on Xen, in QEMU (TOPOLOGY=separate or dom0)
	@$(BIN)/python -m tests.xen.demo $(if $(TOPOLOGY),--topology $(TOPOLOGY))

bench: build $(VENV)/.dev ## measurements of the data plane
	$(BIN)/shadowvq bench

bench-fairness: build $(VENV)/.dev ## what a hostile frontend costs another one on the same worker
	$(BIN)/shadowvq bench-fairness

# Not tests: they measure, in QEMU, by counting instructions. So they need no idle machine, but take their time.
report: build $(VENV)/.dev tools-for-xen ## docs/report: what isolation costs on Xen, beside plain virtio and blkback
	@$(BIN)/python -m tests.xen.bench

report-quick: build $(VENV)/.dev tools-for-xen ## the same with three rounds in place of five
	@$(BIN)/python -m tests.xen.bench --quick

bundle: build ## build/shadowvq.squashfs, the image for a Xen host (docs/xen-host.md)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m deploy.bundle --cmake=-DSVQ_SYSROOT=$(SYSROOT) \
	  build/shadowvq.squashfs

# --- the environment ---------------------------------------------------------------------------------------------
# Where Debian's python3-venv is missing, pip comes from its package; where liburing-dev is missing, so does liburing.

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ShadowVQ needs Python 3.11 or newer" >&2; exit 1; }
	@echo "making the environment in $(VENV)"
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); else \
	  $(PYTHON) -m venv --without-pip $(VENV) && c_helpers/debian_packages.sh $(SYSROOT) python3-pip-whl && \
	  wheel=$$(echo $(SYSROOT)/usr/share/python-wheels/pip-*.whl) && \
	  $(BIN)/python "$$wheel/pip" install --quiet --no-index "$$wheel"; fi

$(SYSROOT)/.ready: $(BIN)/pip
	@mkdir -p $(SYSROOT)
	@echo '#include <liburing.h>' | $(CC) -E - >/dev/null 2>&1 || \
	  c_helpers/debian_packages.sh $(SYSROOT) liburing-dev liburing2
	@touch $@

$(VENV)/.tools: pyproject.toml $(SYSROOT)/.ready
	@echo "installing the build tools into $(VENV)"
	@$(PIP) $$($(EXTRAS) build)
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.tools
	@echo "installing the test tools into $(VENV)"
	@$(PIP) $$($(EXTRAS) bench dev)
	@touch $@

build: $(VENV)/.tools ## the three C libraries, and the package in .venv (BUILD_TYPE=Debug: for a debugger)
	@echo "building ShadowVQ"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --config-settings=cmake.define.SVQ_SYSROOT=$(SYSROOT) \
	  --config-settings=cmake.build-type=$(BUILD_TYPE) -e .

# --- checks ------------------------------------------------------------------------------------------------------

check: lint test-c ## lint, C and the quicker Python tests: before each commit, under three minutes
	$(BIN)/pytest -q -n $(JOBS) $(QUICK)
	$(BIN)/pytest -q -m commands -k quick tests/repository # not beside others: they build

ALL_TESTS := lint test-c test-race test-fuzz test-model test-py test-commands test-module test-xen
test: $(ALL_TESTS) ## everything, real Xen included: under an hour

lint: build $(VENV)/.dev ## formats, types, exported symbols, line lengths, generated files, links between documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/engine/test_symbols.py
	$(BIN)/python -m xenstore_schema.generate --check
	$(BIN)/python -m tests.repository.lines
	$(BIN)/python -m tests.repository.links
	@echo "clang-format --dry-run"; $(BIN)/clang-format --dry-run -Werror $(C_FILES)

format: $(VENV)/.dev ## puts the C and Python sources into their format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@$(BIN)/clang-format -i $(C_FILES)

generate: build ## makes anew what comes from xenstore_schema/nodes.yaml
	$(BIN)/python -m xenstore_schema.generate

build-c: build ## C with the address and undefined-behaviour sanitizers, and its tests, in build/asan
	$(CMAKE) -B build/asan -DSVQ_TESTS=ON -DSVQ_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug
	$(BIN)/cmake --build build/asan

test-c: build-c ## C unit tests, with the address and undefined-behaviour sanitizers
	$(BIN)/ctest --test-dir build/asan --output-on-failure -j $(JOBS) -LE race

build-race: build ## the same with the thread sanitizer, in build/tsan
	$(CMAKE) -B build/tsan -DSVQ_TESTS=ON -DSVQ_SANITIZE=thread -DCMAKE_BUILD_TYPE=Debug
	$(BIN)/cmake --build build/tsan

test-race: build-race ## C tests of threads, with the thread sanitizer
	$(BIN)/ctest --test-dir build/tsan --output-on-failure -j $(JOBS) -L race

test-fuzz: build tools-for-tests ## the rings, fuzzed (FUZZ_SECONDS=20 FUZZ_SEED=1; 0: a new one each time)
	c_helpers/fuzz/run.sh "$(CLANG)" build/fuzz $(FUZZ_SECONDS) $(FUZZ_SEED)

test-py: build $(VENV)/.dev ## all Python tests that need no Xen: engine, XenStore, control, the system in processes
	$(BIN)/pytest -n $(JOBS) --dist loadfile

# Not beside other tests: some of these build what those use.
test-commands: build $(VENV)/.dev tools-for-tests ## the commands and the exercise of CONTRIBUTING.md
	$(BIN)/pytest -q -m commands tests/repository

# CBMC comes from packages unpacked into the cache folder.
test-model: build $(VENV)/.dev ## the exhaustive model of a page's life, and CBMC on the C that lives it
	$(BIN)/pytest -m model -n auto -v tests/model

# Against the headers of Debian 12's kernel and of the newest that its package source has.
test-module: build $(VENV)/.dev tools-for-xen ## builds the guest's kernel module
	$(BIN)/pytest -m module tests/module

# Real Xen 4.17 in QEMU (software emulation will do). The hypervisor, its kernel and tools are Debian's packages,
# unpacked into a cache folder; of the machine itself it takes QEMU, gcc and make.
test-xen: build $(VENV)/.dev tools-for-xen ## what is tested on real Xen, in QEMU
	$(BIN)/pytest -m xen -n auto -v --durations=20 tests/xen

# Not part of `make test`, whose other tests need the mediator domain that this replaces: the next one is made by xl.
test-xen-next-life: build $(VENV)/.dev tools-for-xen ## real Xen again: xl makes a guest's next mediator domain
	$(BIN)/pytest -m xen -v tests/xen/separate/next_life.py

# A child of a test that ends by _exit would leave its counts unwritten.
coverage: build $(VENV)/.dev ## how much of C and of Python the quicker tests reach: a line for each folder
	@$(CMAKE) -B build/coverage -DSVQ_TESTS=ON -DCMAKE_BUILD_TYPE=Debug \
	  "-DCMAKE_C_FLAGS=--coverage -D_exit=exit" >/dev/null
	@$(BIN)/cmake --build build/coverage >/dev/null
	@find build/coverage -name '*.gcda' -delete
	@$(BIN)/ctest --test-dir build/coverage -j $(JOBS) -LE race -Q || echo "some C tests failed under coverage"
	@$(BIN)/pytest -q -n $(JOBS) --cov --cov-report= $(QUICK) >/dev/null || echo "some Python tests failed under coverage"
	@$(BIN)/python -m tests.repository.coverage build/coverage

debug: build ## the C tests without sanitizers or optimization, in build/debug: for gdb
	$(CMAKE) -B build/debug -DSVQ_TESTS=ON -DCMAKE_BUILD_TYPE=Debug
	$(BIN)/cmake --build build/debug

# libelf is for objtool, which comes with the headers, as is pahole; squashfs-tools makes the operators' image.
XEN_TOOLS := qemu-system-x86 libelf1 pahole squashfs-tools
tools-for-xen:
	@{ command -v qemu-system-x86_64 && command -v mksquashfs && command -v pahole && \
	  ls /usr/lib/*/libelf.so.1; } >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && apt-get -q update && apt-get -q install -y --no-install-recommends $(XEN_TOOLS); } || \
	  { echo "real Xen runs in QEMU: sudo apt-get install --no-install-recommends $(XEN_TOOLS)" >&2; exit 1; }

# clang has the fuzzer, and CONTRIBUTING shows gdb: the tools of the tests that are not on PyPI.
TEST_TOOLS := clang libclang-rt-14-dev gdb
tools-for-tests:
	@{ command -v $(or $(CLANG),clang) && command -v gdb; } >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get -q update && apt-get -q install -y --no-install-recommends $(TEST_TOOLS); } || \
	  { echo "make test needs more: sudo apt-get install --no-install-recommends $(TEST_TOOLS)" >&2; exit 1; }

clean: ## removes build and .venv
	rm -rf build $(VENV)
