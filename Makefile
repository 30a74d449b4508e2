# make help lists what there is. Nothing here needs more than Python 3.11 and make.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $(PY) -m pip install -qq --no-input
HASH = $(PYTHON) -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())'

.PHONY: help run test bench lint venv install install-dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install ## serve on http://127.0.0.1:$PORT (8000), with worker, beat and embedded servers
	@exec $(PY) -m relayadmin.supervisor

test: install-dev ## every test, in parallel, on servers of its own
	@exec $(PY) -m pytest -n auto $(ARGS)

bench: install ## every benchmark; a table, and bench/results.json
	@exec $(PY) -m bench $(ARGS)

lint: install-dev ## style, types, layers, migrations
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy billing metering relayadmin sandbox
	@$(VENV)/bin/lint-imports
	@$(PY) manage.py makemigrations --check --dry-run

# An environment is usable once the stamp of a finished creation is in it; one that was interrupted is made anew.
venv:
	@[ -f $(VENV)/.created ] && $(PY) -c '' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "relayadmin needs Python 3.11 or newer; call make with PYTHON=/path/to/python3.11." >&2; exit 1; }; \
	  echo "making $(VENV)" >&2; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "$(PYTHON) could not make $(VENV); on Debian install the package python3-venv." >&2; exit 1; }; \
	  touch $(VENV)/.created; }

# Installed again only when the text of the requirement files has changed.
install: venv
	@want=$$($(HASH) requirements.txt) && [ "$$(cat $(VENV)/.installed 2>/dev/null)" = "$$want" ] || { \
	  echo "installing requirements.txt" >&2; $(PIP) -r requirements.txt && \
	  rm -f $(VENV)/.installed-dev && echo "$$want" >$(VENV)/.installed; }

install-dev: venv
	@want=$$($(HASH) requirements.txt requirements-dev.txt) && [ "$$(cat $(VENV)/.installed-dev 2>/dev/null)" = "$$want" ] || { \
	  echo "installing requirements-dev.txt" >&2; $(PIP) -r requirements-dev.txt && \
	  $(HASH) requirements.txt >$(VENV)/.installed && echo "$$want" >$(VENV)/.installed-dev; }
