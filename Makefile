# make demo | test | cuda | gpu-trial | bench | style | format | wheel | build | clean
# Everything is installed into .venv and built under build/; a second call rebuilds only what changed.
# Another torch:  make demo TORCH='torch==2.13.0' TORCH_INDEX=<address of a package index>
PYTHON      ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name))))
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=
PYTEST_ARGS ?=
CUDA_TORCH  ?= torch==2.14.1
CUDA_TORCH_INDEX ?=
PYTHON312   ?= $(shell command -v python3.12)
GPU_TORCH   ?= torch==2.11.0
GPU_ARCH    ?= 9.0

VENV := .venv
PY   := $(VENV)/bin/python
PIP  := $(PY) -m pip install --quiet --disable-pip-version-check
CPP  := $(shell find csrc -type f 2>/dev/null)
CORE := $(filter-out csrc/cuda/% $(wildcard csrc/*.*),$(CPP)) CMakeLists.txt
EXTENSION := $(wildcard rnnkernels/_C.*.so)

.PHONY: help build demo test bench style format wheel clean simde cuda gpu-trial cuda-on-cpu cuda-driver sanitize FORCE
.DELETE_ON_ERROR:

help:
	@sed -n '1,3s/^# //p' Makefile

# --- the environment -----------------------------------------------------------------------------------------------------
$(VENV)/bin/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no Python found ($(PYTHON)): name a Python >= 3.11, as in make PYTHON=python3 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Written anew only when the variables say something else than last time.
$(VENV)/torch-wanted: FORCE | $(VENV)/bin/python
	@echo '$(TORCH) $(TORCH_INDEX)' | cmp -s - $@ || echo '$(TORCH) $(TORCH_INDEX)' > $@

$(VENV)/stamp-torch: $(VENV)/torch-wanted
	$(PY) -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	@touch $@

$(VENV)/stamp-simde: requirements/simde.txt | $(VENV)/stamp-torch
	$(PIP) --no-deps -r $<
	@touch $@

$(VENV)/stamp-%: requirements/%.txt | $(VENV)/stamp-torch
	$(PIP) -r $<
	@touch $@

# --- the extension -------------------------------------------------------------------------------------------------------
build: build/stamp

build/stamp: $(CPP) CMakeLists.txt setup.py pyproject.toml $(VENV)/stamp-torch $(VENV)/stamp-build $(if $(EXTENSION),,FORCE)
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

# Test only: the package once more under build/simde (PYTHONPATH=build/simde), its AVX-512 file compiled against SIMDe for
# machines without AVX-512.
simde: build/simde/stamp
	@ln -sfn $(addprefix $(CURDIR)/,$(filter-out %/__pycache__ rnnkernels/_C.%,$(wildcard rnnkernels/*))) build/simde/rnnkernels/

build/simde/stamp: $(CPP) CMakeLists.txt pyproject.toml $(VENV)/stamp-torch $(VENV)/stamp-build $(VENV)/stamp-simde
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S . -B build/simde -G Ninja --log-level=WARNING -DRNN_PYTHON=$(CURDIR)/$(PY) \
	  -DRNN_SIMDE=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cmeel.prefix/include
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake --build build/simde
	@touch $@

# Test only: the package once more under build/cuda_on_cpu (PYTHONPATH=build/cuda_on_cpu), in which CPU tensors run the
# kernels of csrc/cuda, thread by thread.
cuda-on-cpu: build/cuda_on_cpu/stamp
	@ln -sfn $(addprefix $(CURDIR)/,$(filter-out %/__pycache__ rnnkernels/_C.%,$(wildcard rnnkernels/*))) build/cuda_on_cpu/rnnkernels/

build/cuda_on_cpu/stamp: $(CPP) $(shell find tests/cuda_on_cpu -name '*.h' -o -name '*.cpp' -o -name '*.py') CMakeLists.txt pyproject.toml $(VENV)/stamp-torch $(VENV)/stamp-build
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S . -B build/cuda_on_cpu -G Ninja --log-level=WARNING -DRNN_PYTHON=$(CURDIR)/$(PY) \
	  -DRNN_CUDA_ON_CPU=ON
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake --build build/cuda_on_cpu
	@touch $@

# The package once more under build/cuda, by nvcc and against the CUDA build of torch, which has an environment of its own
# (5.5 GB): built for all cards or TORCH_CUDA_ARCH_LIST, imported, and tested as far as no card is needed. The other builds
# that tests run are those of .venv.
CUDA_VENV := .venv-cuda
CUDA_RUN  := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/cuda:$(CURDIR) $(CUDA_VENV)/bin/python
OTHER_BUILDS := simde sanitize cuda cuda_sanitize nvcc cuda_on_cpu persistent

cuda: build/cuda/stamp
	@ln -sfn $(addprefix $(CURDIR)/,$(filter-out %/__pycache__ rnnkernels/_C.%,$(wildcard rnnkernels/*))) build/cuda/rnnkernels/
	$(CUDA_RUN) -m rnnkernels info
	$(CUDA_RUN) -m pytest -o pythonpath= -p no:cacheprovider $(OTHER_BUILDS:%=--ignore=tests/test_%.py) $(PYTEST_ARGS)

build/cuda/stamp: $(CPP) CMakeLists.txt setup.py pyproject.toml $(CUDA_VENV)/stamp
	RNNKERNELS_CUDA=1 $(CUDA_VENV)/bin/python setup.py --quiet build_ext --build-lib build/cuda
	@touch $@

$(CUDA_VENV)/stamp: requirements/build.txt requirements/test.txt $(CUDA_VENV)/torch-wanted
	$(CUDA_VENV)/bin/python -m pip install --disable-pip-version-check $(if $(CUDA_TORCH_INDEX),--index-url $(CUDA_TORCH_INDEX)) '$(CUDA_TORCH)'
	$(CUDA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/build.txt -r requirements/test.txt
	@touch $@

$(CUDA_VENV)/torch-wanted: FORCE
	@test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	@echo '$(CUDA_TORCH) $(CUDA_TORCH_INDEX)' | cmp -s - $@ || echo '$(CUDA_TORCH) $(CUDA_TORCH_INDEX)' > $@

# The extension that bench/gpu_trial.sh takes to a GPU machine: for its Python 3.12, its torch and its GPU alone, beside the
# one of .venv in rnnkernels/. The environment it is built in (5 GB) is .venv-gpu.
GPU_VENV := .venv-gpu
GPU_RUN  := PYTHONPATH=$(CURDIR) $(GPU_VENV)/bin/python

gpu-trial: $(GPU_VENV)/stamp
	RNNKERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST='$(GPU_ARCH)' $(GPU_VENV)/bin/python setup.py --quiet build_ext --inplace
	$(GPU_RUN) -m rnnkernels info
	@ls -l rnnkernels/_C.cpython-312-*.so

$(GPU_VENV)/stamp: requirements/build.txt $(GPU_VENV)/torch-wanted
	$(GPU_VENV)/bin/python -m pip install --disable-pip-version-check '$(GPU_TORCH)'
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/build.txt
	@touch $@

$(GPU_VENV)/torch-wanted: FORCE
	@"$(PYTHON312)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || { echo "make: no Python 3.12 found \
	($(PYTHON312)): name one with its headers, as in make gpu-trial PYTHON312=/usr/bin/python3.12"; exit 1; }
	@test -x $(GPU_VENV)/bin/python || "$(PYTHON312)" -m venv $(GPU_VENV)
	@echo '$(GPU_TORCH)' | cmp -s - $@ || echo '$(GPU_TORCH)' > $@

# Test only: the core and tests/core_driver*.cpp under AddressSanitizer and UBSan.
sanitize: build/sanitize/stamp

build/sanitize/stamp: $(CORE) $(wildcard tests/core_driver*) $(VENV)/stamp-build
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S . -B build/sanitize -G Ninja --log-level=WARNING -DRNN_SANITIZE=address,undefined
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake --build build/sanitize
	@touch $@

# Test only: csrc/cuda, executed on the CPU by tests/cuda_driver.cpp, once under AddressSanitizer and UBSan, once under
# ThreadSanitizer.
cuda-driver: build/cuda_driver/stamp

build/cuda_driver/stamp: $(CPP) $(wildcard tests/core_driver*.h) tests/cuda_driver.cpp $(shell find tests/cuda_on_cpu -name '*.h' -o -name '*.cpp' -o -name 'rewrite.py') CMakeLists.txt $(VENV)/stamp-build
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S . -B build/cuda_driver -G Ninja --log-level=WARNING -DRNN_CUDA_DRIVER=ON \
	  -DRNN_PYTHON=$(CURDIR)/$(PY)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake --build build/cuda_driver
	@touch $@

# --- what people type ----------------------------------------------------------------------------------------------------
demo: build $(VENV)/stamp-demo
	$(PY) -m rnnkernels demo

test: build simde sanitize cuda-on-cpu cuda-driver $(VENV)/stamp-test
	$(PY) -m pytest $(PYTEST_ARGS)

bench: build $(VENV)/stamp-bench
	$(PY) -m bench

style: $(VENV)/stamp-style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(filter %.h %.cpp %.cu %.cuh,$(CPP))

format: $(VENV)/stamp-style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(filter %.h %.cpp %.cu %.cuh,$(CPP))

wheel: $(VENV)/stamp-build
	@rm -rf build/lib.* build/bdist.*
	$(PY) -m pip wheel --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks rnnkernels/_C.*.so
