# Each target builds what it needs: the environment in .venv from requirements.lock, once.

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
  "$$name" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
  2>/dev/null && echo "$$name" && break; done)
UV ?= uv

# Large blocks of memory in huge pages (Linux with glibc): see docs/performance.md.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Without build isolation, what builds the one source package comes from the lock too: it goes first.
PIP_LOCKED := .venv/bin/python -m pip install --require-hashes --no-deps --no-build-isolation

# Written last, so an environment without it is one whose installation did not finish.
INSTALLED := .venv/installed

.PHONY: help train test test-slow test-all bench docs lint lock wheel-check clean

# The first target is what `make` alone does.
train: $(INSTALLED)  ## meta-train a small rule into runs/laptop, in minutes
	.venv/bin/unsup-rule train --config_file=gin/laptop.gin --train_log_dir=runs/laptop

# One worker runs all of a module, whose tests share compiled programs; the longest modules first.
# Without huge pages, so that workers stay small.
PYTEST := env -u GLIBC_TUNABLES .venv/bin/python -m pytest --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)  ## the fast tests
	$(PYTEST) -n 2 -m "not slow"

# Ray, populations, faults, notebooks, programs of the paper's size. Many of them wait for processes
# that wait, so that two cores have work for three workers.
test-slow: $(INSTALLED)  ## Ray, populations, faults, notebooks
	$(PYTEST) -n 3 -m slow

test-all: test test-slow  ## all tests

bench: $(INSTALLED)  ## time the rule beside the limits of this machine
	.venv/bin/unsup-rule bench

docs: $(INSTALLED)  ## build the site of docs/ into build/site
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet
	@echo "Open build/site/index.html."

lint: $(INSTALLED)  ## ruff and pyright
	.venv/bin/ruff check
	.venv/bin/pyright --pythonpath .venv/bin/python

$(INSTALLED): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with the modules venv and" \
	  "ensurepip found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -e $@ || rm -rf .venv
	@rm -f $@
	@test -e .venv || "$(PYTHON)" -m venv .venv
	@sed -n '/^setuptools==/,/# via/p' requirements.lock > .venv/build.lock
	$(PIP_LOCKED) -r .venv/build.lock
	$(PIP_LOCKED) -r requirements.lock
	.venv/bin/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

# Resolves afresh (needs uv): all of pyproject.toml, and learned_optimization without what it pins.
lock:  ## resolve requirements.lock afresh (needs uv)
	$(UV) pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
	  --custom-compile-command "make lock" --upgrade --extra all --extra dev --extra docs \
	  pyproject.toml requirements.in -o requirements.lock
	echo "learned-optimization==0.0.1" | $(UV) pip compile --no-config --quiet --no-deps \
	  --no-header --python-version 3.11 --generate-hashes - >> requirements.lock

# Builds the wheel and uses it in a bare environment of each Python that is found (minutes, needs an
# index).
wheel-check: $(INSTALLED)  ## use the wheel in a bare environment of each Python
	for python in python3.11 python3.12 python3.13; do \
	  ! "$$python" -c "import venv, ensurepip" 2>/dev/null || \
	  WHEEL_PYTHON="$$(command -v "$$python")" \
	  .venv/bin/python -m pytest -q -s tests/integration/test_wheel.py || exit 1; \
	done

clean:  ## remove .venv and what was built
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12
