# Short names for the Nox sessions: `make help` lists them. The first one called sets up what it needs:
# Nox in .venv, everything else in .nox/env. Extra flags: make matrix ARGS="--device cpu"

PYTHON ?= python3
NOX := .venv/bin/python -m nox
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help matrix publish devices node regenerate check discover browsers test lint format

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.* ## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

matrix: .venv/ready ## run the scripts on this machine's devices, publish what came out
	$(NOX) -s matrix publish -- $(ARGS)

publish: .venv/ready ## render the reports from results/
	$(NOX) -s ingest publish -- $(ARGS)

devices: .venv/ready ## say which devices this machine has
	$(NOX) -s devices -- $(ARGS)

node: .venv/ready ## make this machine one of several that run the matrix
	$(NOX) -s node -- $(ARGS)

regenerate: .venv/ready ## write fixed_tests from registry and templates
	$(NOX) -s regenerate -- $(ARGS)

check: .venv/ready ## fail if fixed_tests is not what regenerate would write
	$(NOX) -s check -- $(ARGS)

discover: .venv/ready ## learn the facts of the installed transformers (slow)
	$(NOX) -s discover -- $(ARGS)

browsers: .venv/ready ## install what the devices webgpu and webnn need: onnxruntime-web, a Chromium
	$(NOX) -s browsers

test: .venv/ready ## lint, types, drift, and the tests of generator, tools and templates
	$(NOX) -s lint check
	$(NOX) -s tests -- $(ARGS)

lint: .venv/ready ## check style, formatting, types, spelling and schemas
	$(NOX) -s lint

format: .venv/ready ## sort the imports, format the code
	$(NOX) -s format

.venv/ready: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt nox
	@touch $@
