# SPDX-License-Identifier: GPL-2.0-or-later
# Everything is built into .venv and build; nothing is installed on the machine.
#   make demo [IMAGE=disk.img]   the whole product on the embedded hypervisor, and an attack on it
#   make xen-demo                the same job in a stock Linux guest on real Xen, in QEMU
#   make test                    everything, real Xen included
#   make test-xen                what is tested on real Xen, in QEMU
#   make bench                   measurements of the data plane
#   make bundle                  build/shadowvq.squashfs: what is mounted on a Xen host (docs/xen-host.md)
#   make build | lint | test-c | test-race | test-fuzz | test-py | test-module | generate | clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SYSROOT := $(CURDIR)/$(VENV)/sysroot
FUZZ_SECONDS ?= 20
CLANG ?= $(firstword $(shell command -v clang clang-14 clang-15 clang-16))
JOBS := $(shell nproc)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
CMAKE := $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DSVQ_SYSROOT=$(SYSROOT) -S c_helpers
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: demo xen-demo bundle test test-xen test-module bench build lint format generate test-c test-race test-fuzz test-py tools-for-tests tools-for-xen clean
.DEFAULT_GOAL := help

help:
	@sed -n '3,11s/^# //p' Makefile

demo: build
	$(BIN)/shadowvq demo $(if $(IMAGE),--image "$(IMAGE)")

bench: build $(VENV)/.dev
	$(BIN)/shadowvq bench

test: lint test-c test-race test-fuzz test-py test-module test-xen

# --- the environment ---------------------------------------------------------------------------------------------
# Where Debian's python3-venv is missing, pip comes from its package; where liburing-dev is missing, so does liburing.

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ShadowVQ needs Python 3.11 or newer" >&2; exit 1; }
	@echo "making the environment in $(VENV)"
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); else \
	  $(PYTHON) -m venv --without-pip $(VENV) && c_helpers/debian_packages.sh $(SYSROOT) python3-pip-whl && \
	  wheel=$$(echo $(SYSROOT)/usr/share/python-wheels/pip-*.whl) && \
	  $(BIN)/python "$$wheel/pip" install --quiet --no-index "$$wheel"; fi

$(SYSROOT)/.ready: $(BIN)/pip
	@mkdir -p $(SYSROOT)
	@echo '#include <liburing.h>' | $(CC) -E - >/dev/null 2>&1 || c_helpers/debian_packages.sh $(SYSROOT) liburing-dev liburing2
	@touch $@

$(VENV)/.tools: pyproject.toml $(SYSROOT)/.ready
	@echo "installing the build tools into $(VENV)"
	@$(PIP) 'scikit-build-core>=0.10' 'cmake>=3.25' 'ninja>=1.11'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.tools
	@echo "installing the test tools into $(VENV)"
	@$(PIP) hypothesis matplotlib mypy pytest pytest-timeout pytest-xdist ruff types-PyYAML types-cffi
	@touch $@

build: $(VENV)/.tools
	@echo "building ShadowVQ"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation --config-settings=cmake.define.SVQ_SYSROOT=$(SYSROOT) -e .

# --- checks ------------------------------------------------------------------------------------------------------

lint: build $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m xenstore_schema.generate --check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: build
	$(BIN)/python -m xenstore_schema.generate

test-c: build
	$(CMAKE) -B build/asan -DSVQ_TESTS=ON -DSVQ_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug
	$(BIN)/cmake --build build/asan
	$(BIN)/ctest --test-dir build/asan --output-on-failure -j $(JOBS) -LE race

test-race: build
	$(CMAKE) -B build/tsan -DSVQ_TESTS=ON -DSVQ_SANITIZE=thread -DCMAKE_BUILD_TYPE=Debug
	$(BIN)/cmake --build build/tsan
	$(BIN)/ctest --test-dir build/tsan --output-on-failure -j $(JOBS) -L race

test-fuzz: build tools-for-tests
	c_helpers/fuzz/run.sh "$(CLANG)" build/fuzz $(FUZZ_SECONDS)

test-py: build $(VENV)/.dev
	$(BIN)/pytest

# The guest's kernel module, against the headers of Debian 12's kernel and of the newest that its package source has.
test-module: build $(VENV)/.dev tools-for-xen
	$(BIN)/pytest -m module tests/module

# Real Xen 4.17 in QEMU (software emulation will do). The hypervisor, its kernel and tools are Debian's packages,
# unpacked into a cache folder; of the machine itself it takes QEMU, gcc and make.
test-xen: build $(VENV)/.dev tools-for-xen
	$(BIN)/pytest -m xen -n auto -v --durations=20 tests/xen

xen-demo: build $(VENV)/.dev tools-for-xen
	@$(BIN)/python -m tests.xen.demo $(if $(TOPOLOGY),--topology $(TOPOLOGY))

bundle: build
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m deploy.bundle --cmake=-DSVQ_SYSROOT=$(SYSROOT) build/shadowvq.squashfs

# libelf is for objtool, which comes with the headers, as is pahole; squashfs-tools makes the operators' image.
XEN_TOOLS := qemu-system-x86 libelf1 pahole squashfs-tools
tools-for-xen:
	@{ command -v qemu-system-x86_64 && command -v mksquashfs && command -v pahole && ls /usr/lib/*/libelf.so.1; } >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && apt-get -q update && apt-get -q install -y --no-install-recommends $(XEN_TOOLS); } || \
	  { echo "real Xen runs in QEMU: sudo apt-get install --no-install-recommends $(XEN_TOOLS)" >&2; exit 1; }

# clang has the fuzzer; it is the one tool of the tests that is not on PyPI.
tools-for-tests:
	@command -v clang clang-14 >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get -q update && \
	  apt-get -q install -y --no-install-recommends clang libclang-rt-14-dev; } || \
	  { echo "make test needs clang for the fuzzer: sudo apt-get install clang libclang-rt-14-dev" >&2; exit 1; }

clean:
	rm -rf build $(VENV)
