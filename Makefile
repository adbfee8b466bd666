# The first of the given interpreters for which an expression holds.
python-where = $(shell for python in $(1); do \
	$$python -c 'import ensurepip, venv, sys; sys.exit(not ($(2)))' 2>/dev/null && echo $$python && break; done)

PYTHON ?= $(call python-where,python3 python3.14 python3.13 python3.12 python3.11,sys.version_info >= (3, 11))
# It goes into the executable: the system's own, which gets security fixes, where it has its shared library.
BUILD_PYTHON ?= $(call python-where,/usr/bin/python3 $(PYTHON),sys.version_info >= (3, 11) and \
	__import__("ctypes").CDLL(__import__("sysconfig").get_config_var("INSTSONAME")))
VENV := .venv
BUILD_VENV := .venv-build
INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all:

.PHONY: help run test bench lint binary lock shots test-programs build-programs

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

run: $(VENV)/.runtime ## set up and run on the embedded defaults
	@$(VENV)/bin/python app.py serve

test: $(VENV)/.dev test-programs ## set up what the tests need and run them (ARGS="-k grants": some of them)
	$(VENV)/bin/python -m pytest $(ARGS)

bench: $(VENV)/.dev ## measure whether anything gets slower as the ledger grows
	@$(VENV)/bin/python -m bench.growth

lint: $(VENV)/.dev ## style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

binary: $(VENV)/.runtime $(BUILD_VENV)/.ready ## build dist/certbob and let it do its whole job
	@echo "Building dist/certbob ..."
	@rm -rf build dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) PYTHONHASHSEED=1 \
		$(BUILD_VENV)/bin/pyinstaller --noconfirm --clean --log-level WARN build.spec
	@$(BUILD_VENV)/bin/python scripts/licences.py build/libraries.txt > dist/THIRD_PARTY_LICENSES.txt
	@$(VENV)/bin/python -m tests.e2e.smoke dist/certbob

lock: $(VENV)/bin/python ## pin requirements/ anew (ARGS="--upgrade-package NAME" or "--upgrade": newer ones)
	@scripts/lock $(ARGS)

shots: $(VENV)/.dev test-programs ## photograph every page into shots/
	@$(VENV)/bin/python -m scripts.shots

test-programs:
	@tests/peers/install tests

build-programs:
	@tests/peers/install build

# $(1): the interpreter, empty where there is none; $(2): what to do about that.
define new-venv
	@test -n "$(1)" || { echo "CertBob needs $(2)." >&2; exit 1; }
	@echo "Setting up $(@:/bin/python=) ..."
	@rm -rf $(@:/bin/python=)
	@$(1) -m venv $(@:/bin/python=)
endef

$(VENV)/bin/python:
	$(call new-venv,$(PYTHON),Python 3.11 or newer with its venv module (Debian and Ubuntu: apt install python3-venv))

$(BUILD_VENV)/bin/python: | build-programs
	$(call new-venv,$(BUILD_PYTHON),Python 3.11 or newer with venv and shared library (Debian: python3-venv and libpython3.x))

$(VENV)/.runtime: requirements/runtime.txt $(VENV)/bin/python
	@$(VENV)/bin/python $(INSTALL) -r $<
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing the tools of the tests ..."
	@$(VENV)/bin/python $(INSTALL) -r $<
	@touch $@

# Clean and used for nothing else: whatever lies beside would be drawn into the executable.
$(BUILD_VENV)/.ready: requirements/runtime.txt requirements/build.txt $(BUILD_VENV)/bin/python
	@$(BUILD_VENV)/bin/python $(INSTALL) -r requirements/runtime.txt -r requirements/build.txt
	@touch $@
