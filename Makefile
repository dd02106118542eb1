# All targets run in .venv, which they create and keep up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/tests
SOURCES := $(shell find csrc -type f) CMakeLists.txt
# The native tests run the source of the CUDA kernels on the host. Only the installed module's build
# compiles it with nvcc.
CONFIGURE = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
  -DPROACT_TESTS=ON -DPROACT_CUDA=host
PACKAGING := setup.py pyproject.toml constraints.txt
# Output folder for the packages. They are built from a copy of the files that git tracks or does
# not ignore, so that other files in this folder cannot enter a package.
DIST ?= dist
CLEAN_TREE := build/package

# An environment with third-party model libraries and the newest torch they support (5.5 GB).
ECOSYSTEM := .venv-ecosystem
# The oldest versions that pyproject.toml allows; takes 6 GB.
OLDEST := .venv-oldest

# An environment with pip-audit alone.
AUDIT := .venv-audit

# A build of the CUDA code for the GPU of this machine, with the tests that run on it.
CUDA_BUILD := build/cuda

.PHONY: demo test test-long test-all test-cuda test-cuda-installed fuzz audit coverage test-ecosystem test-oldest lint types unit native sanitize docs packages dist format clean

demo: $(VENV)/.installed
	$(BIN)/python benchmarks/ber_campaign.py

test: lint types native unit

# Two processes, because most tests leave cores idle; a file stays in one process, which has its fixtures.
# Some tests use the native module whose kernels run on the host.
# test-long runs what takes too long for `make test`: killed campaigns, whole reports, simulations.
test-long: CHOSEN := -m 'long and not slow'
unit test-long: $(BUILD)/build.ninja
	$(BIN)/cmake --build $(BUILD) --target _proact
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/docs $(CHOSEN)

test-all: lint types native sanitize
	$(BIN)/python -m pytest -m ''

# Everything that needs a GPU, in one command: the kernels' own tests, the tests of the Python
# package, and then the kernels' tests and those of HyReLU under the tools of compute-sanitizer. A
# missing GPU, nvcc or torch for CUDA fails. The installed module gets code for this GPU alone.
test-cuda:
	PROACT_CUDA=on CUDAARCHS=native $(MAKE) --always-make $(VENV)/.installed
	$(MAKE) test-cuda-installed

# The same with what is installed in BIN, also on a machine without a network.
# torch keeps memory that it frees, and memcheck would take it for memory in use.
test-cuda-installed:
	$(BIN)/cmake -S . -B $(CUDA_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
	  -DPROACT_TESTS=ON -DPROACT_PYTHON=OFF -DPROACT_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=native
	$(BIN)/cmake --build $(CUDA_BUILD)
	$(BIN)/ctest --test-dir $(CUDA_BUILD) --output-on-failure -L gpu
	PROACT_NEEDS_CUDA=1 $(BIN)/python -m pytest -m cuda tests/unit
	for test in $(CUDA_BUILD)/csrc/tests/*_on_gpu; do \
	  for tool in memcheck racecheck synccheck; do \
	    compute-sanitizer --tool $$tool --error-exitcode 1 $$test || exit 1; \
	  done; \
	done
	for tool in memcheck racecheck synccheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 PROACT_NEEDS_CUDA=1 \
	    compute-sanitizer --tool $$tool --error-exitcode 1 \
	    $(BIN)/python -m pytest -m cuda tests/unit/test_cuda.py -k hyrelu || exit 1; \
	done

# Hostile input of seeds that the tests do not try: as many as SECONDS allow, from SEED on.
SECONDS ?= 3600
SEED ?= $(shell date +%s)
fuzz: $(VENV)/.installed
	PROACT_FUZZ_SECONDS=$(SECONDS) PROACT_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -m fuzz tests/unit/test_fuzz.py

# Known weaknesses of the pinned packages, by pip-audit, which asks PyPI.
audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit==2.10.1
	$(AUDIT)/bin/pip-audit --no-deps --disable-pip -r constraints.txt

test-ecosystem: $(ECOSYSTEM)/.installed
	$(ECOSYSTEM)/bin/python -m pytest -m '' tests/ecosystem

# Old releases warn of how new Pythons and the packages below them have changed: no error here.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -W default -m 'not slow' tests/unit

# The branches that the tests take: all of them, slow ones included.
coverage: native
	$(BIN)/python -m pytest -m '' --cov --cov-report=term-missing:skip-covered

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.?pp' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

native: $(BUILD)/build.ninja
	$(BIN)/cmake --build $(BUILD)
	$(BIN)/ctest --test-dir $(BUILD) --output-on-failure

# One build checks memory and arithmetic; another checks the tests that use threads for data races.
sanitize: $(VENV)/.installed
	$(CONFIGURE) -B build/sanitize/memory -DPROACT_PYTHON=OFF -DPROACT_SANITIZE=address,undefined
	$(BIN)/cmake --build build/sanitize/memory
	$(BIN)/ctest --test-dir build/sanitize/memory --output-on-failure
	$(CONFIGURE) -B build/sanitize/threads -DPROACT_PYTHON=OFF -DPROACT_SANITIZE=thread
	$(BIN)/cmake --build build/sanitize/threads --target threaded_tests
	$(BIN)/ctest --test-dir build/sanitize/threads --output-on-failure -L threaded

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/docs
	$(BIN)/python -m pytest -n 2 tests/docs

# CUDA is off even if nvcc is installed, so that a package does not depend on the build machine.
packages: $(VENV)/.installed
	rm -rf $(CLEAN_TREE) $(DIST)
	mkdir -p $(CLEAN_TREE)
	git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C $(CLEAN_TREE)
	PIP_CONSTRAINT=$(abspath constraints.txt) PROACT_CUDA=off \
	  $(BIN)/python -m build --outdir $(DIST) $(CLEAN_TREE)

dist: packages
	$(BIN)/twine check --strict $(DIST)/*
	$(BIN)/check-wheel-contents $(DIST)/*.whl
	PROACT_DIST=$(abspath $(DIST)) $(BIN)/python -m pytest -m packaging tests/packaging

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.?pp' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist $(VENV) $(ECOSYSTEM) $(OLDEST) runs *.egg-info proact/*.so

$(BUILD)/build.ninja: $(VENV)/.installed CMakeLists.txt
	$(CONFIGURE) -B $(BUILD) -DPROACT_PYTHON=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(SOURCES) $(PACKAGING)
	# The environment variable, unlike --constraint, also applies to the isolated build.
	PIP_CONSTRAINT=$(abspath constraints.txt) $(BIN)/pip install --quiet --editable '.[data,dev,docs]'
	@touch $@

$(ECOSYSTEM)/.installed: constraints-ecosystem.txt $(SOURCES) $(PACKAGING)
	$(PYTHON) -m venv $(ECOSYSTEM)
	PROACT_CUDA=off $(ECOSYSTEM)/bin/pip install --quiet --constraint constraints-ecosystem.txt \
	  pytest torchvision timm transformers torchao bitsandbytes --editable '.[data,detection]'
	@touch $@

# Built with the oldest tools too. What the tests alone need is as new as pip finds it.
$(OLDEST)/.installed: constraints-oldest.txt $(SOURCES) $(PACKAGING)
	$(PYTHON) -m venv $(OLDEST)
	PIP_CONSTRAINT=$(abspath constraints-oldest.txt) PROACT_CUDA=off $(OLDEST)/bin/pip install --quiet \
	  hypothesis ipykernel ipywidgets markdown-it-py nbclient nbformat pytest --editable '.[dask,data]'
	@touch $@

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit(f"proact needs Python 3.10 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	@touch $@
