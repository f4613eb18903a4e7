# Everything runs from .venv in this folder, which is made and filled on the first use and again whenever
# pyproject.toml has changed. Another interpreter: make test PYTHON=python3.12. Arguments for pytest:
# make test ARGS=tests/test_examples.py; in one process: make test PARALLEL=.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
DIGITS := examples/digits
ARGS ?=
# A process for each core, of 2 GB each; the tests of a file stay together, as they share what takes long to make.
PARALLEL ?= -n logical --maxprocesses=4 --dist loadfile --no-loadscope-reorder
comma := ,
# The oldest PyTorch that pyproject.toml allows has an environment of its own.
FLOOR := $(VENV)-floor
oldest = $(1)==$(shell sed -n 's/^ *"$(1)>=\(.*\)",$$/\1/p' pyproject.toml).*
FLOOR_TESTS := tests/converter/graph tests/converter/load tests/converter/quantize tests/calibrators
GPU_RESULT ?= benchmarks/results/gpu.json
# Type stubs of TensorRT 10. Their dependency is only on NVIDIA's index, so they are installed without it, and
# outside of sys.path, where a folder called tensorrt would look like TensorRT.
STUBS := tensorrt-stubs==10.13.0.35.1

# "yes" where the interpreter $(1) has TensorRT, as JetPack and NVIDIA's Debian packages bring it for the system's Python.
# -I leaves the current folder out, and a folder without modules has no origin.
has_tensorrt = $(shell $(1) -I -c 'from importlib.util import find_spec; spec = find_spec("tensorrt"); \
    print("yes" if spec and spec.origin else "")' 2>/dev/null)

.PHONY: help demo test test-floor fuzz gpu-here gpu-test gpu-check lint types check format clean
# Two installations into one .venv would get in each other's way under make -j.
.NOTPARALLEL:

help:
	@echo 'make demo    convert the digits example to INT8 without data and measure it'
	@echo 'make test    run the tests'
	@echo 'make test-floor'
	@echo '             run those of a conversion with the oldest PyTorch that is supported (downloads it)'
	@echo 'make fuzz    read thousands of damaged files of every kind (long)'
	@echo 'make gpu-test'
	@echo '             on a machine with an NVIDIA GPU: the tests that need one, and a self-test of each engine'
	@echo 'make gpu-check'
	@echo '             on a machine with an NVIDIA GPU and PyTorch: what needs no TensorRT, in 8 minutes, as one JSON'
	@echo 'make lint    ruff format --check, ruff check'
	@echo 'make types   mypy'
	@echo 'make check   lint, types and test'
	@echo 'make format  format the code and fix what ruff can fix'
	@echo 'make clean   delete caches and outputs; .venv stays'

demo: $(VENV)/.installed-demo
	$(BIN)/zscgan-convert $(DIGITS)/digits.pth --arch $(DIGITS)/model.py:digits_resnet --input-shape 1x8x8 \
	    --mean 0.305 --std 0.376 --int8 --val $(DIGITS)/test.npz -o $(DIGITS)/out

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# A whole conversion by the wheel, then the parts that PyTorch's versions differ in.
test-floor: $(FLOOR)/.installed
	$(FLOOR)/bin/python -m pytest tests/test_wheel.py
	$(FLOOR)/bin/python -m pytest $(PARALLEL) -m 'not slow' $(FLOOR_TESTS) $(ARGS)

# ARGS='--kind safetensors --files 5000' for one kind; --first for other damage.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz $(ARGS)

gpu-test: gpu-here $(VENV)/.installed-gpu
	$(BIN)/python -m pytest -m gpu $(ARGS)
	$(BIN)/zscgan-doctor --selftest

# By a Python that has PyTorch already, as such a machine may be without network: nothing is installed.
gpu-check: gpu-here
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) benchmarks/gpu_check.py --out $(GPU_RESULT)

# Asked first, as TensorRT is large and of no use without a GPU.
gpu-here:
	@$(PYTHON) -c 'import sys; from engines.gpu import gpus; number, why = gpus(); \
	    sys.exit(None if number else f"this needs an NVIDIA GPU, but {why}; make test needs none")'

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev $(VENV)/stubs/.installed
	$(BIN)/mypy
	$(BIN)/mypy $(DIGITS)/model.py $(DIGITS)/train.py
	$(BIN)/mypy examples/deploy_onnxruntime.py examples/deploy_pycuda.py examples/tensorrt_calibrator.py

check: lint types test

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stubs' own syntax errors (a parameter called in, one without a default after others) would stop mypy.
$(VENV)/stubs/.installed: Makefile | $(VENV)/.installed-dev
	@rm -rf $(VENV)/stubs
	@$(PIP_INSTALL) --no-deps --target $(VENV)/stubs '$(STUBS)'
	@sed -i -E 's/([(, ])in: /\1in_: /; s/channel_axis: int\) -> IScaleLayer/channel_axis: int = ...) -> IScaleLayer/' \
	    $(VENV)/stubs/tensorrt_bindings/tensorrt.pyi
	@touch $@

clean:
	rm -rf $(DIGITS)/out dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find converter calibrators engines zscgan_common examples benchmarks tests -type d -name __pycache__ -prune -exec rm -rf {} +

# pip and not python, as a failed venv leaves a python behind.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "expected Python 3.10 or newer, got $$($(PYTHON) --version 2>&1); type make PYTHON=python3.12" >&2; \
	    exit 1; }
	$(PYTHON) -m venv $(if $(call has_tensorrt,$(PYTHON)),--system-site-packages) $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/pip
	@echo 'Installing the project into $(VENV) (PyTorch is large: minutes on the first run)'
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-gpu: pyproject.toml | $(BIN)/pip
	@echo 'Installing the project into $(VENV), with TensorRT unless the system has it (minutes on the first run)'
	@$(PIP_INSTALL) -e '.[dev$(if $(call has_tensorrt,$(BIN)/python),,$(comma)tensorrt)]'
	@$(PIP_INSTALL) -e '.[pycuda]' 2>$(VENV)/pycuda.log || \
	    echo 'PyCUDA can not be compiled here ($(VENV)/pycuda.log says why): its tests are skipped, PyTorch serves the others'
	@touch $(VENV)/.installed-demo $(VENV)/.installed-dev $@

$(FLOOR)/.installed: pyproject.toml
	@echo 'Installing the project with $(call oldest,torch) into $(FLOOR)'
	@$(PYTHON) -m venv $(FLOOR)
	@$(FLOOR)/bin/python -m pip install -qq --disable-pip-version-check -e '.[test,timm]' '$(call oldest,torch)' \
	    '$(call oldest,torchvision)'
	@touch $@

# The dev extra holds all that the demo needs.
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	@echo 'Installing the project and its dev extra into $(VENV) (minutes on the first run)'
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed-demo $@
