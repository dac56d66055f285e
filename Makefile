# The one door to the project: `make` lists what it can do.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
CPP_FILES = $(shell git ls-files 'cpp/*.h' 'cpp/*.cc')
PYTHON_PATHS := python tests bench examples

CPP_SOURCES := $(shell find CMakeLists.txt cpp -name '*.h' -o -name '*.cc' -o -name CMakeLists.txt)
SOURCES := $(CPP_SOURCES) $(shell find python bench -name '*.py' -o -name '*.pyi' -o -name py.typed)

# With its own folder the build is incremental, and the test-only module it contains cannot get
# into the wheels that pip builds in build/<wheel tag>.
TEST_PARTS := -Ccmake.define.FASTPS_BUILD_TESTS=ON -Ccmake.define.FASTPS_BUILD_STRESS=ON \
  -Ccmake.define.FASTPS_BUILD_FUZZ=ON
TEST_BUILD := -Cbuild-dir=build/test $(TEST_PARTS)
# Tests that start processes stay together on one of the workers (tests/conftest.py).
PARALLEL := -n $(JOBS) --dist loadgroup

export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
unexport PYTHONPATH
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## list the targets
	@echo "fastps: make TARGET, where TARGET is"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

# ---- Use

.PHONY: demo
demo: $(VENV)/.installed ## train logistic regression on 2 servers and 2 workers; writes demo/
	@mkdir -p demo
	$(PY) -m fastps train lr examples/data/a1a/a1a --test examples/data/a1a/a1a.t \
	  --l2 1 --no-bias --servers 2 --workers 2 \
	  --model demo/model.npz --metrics demo/metrics.json --plot demo/curve.png
	@echo; echo "demo: written to demo/:" $$(ls demo)

.PHONY: test
test: $(VENV)/.installed ## build and run all tests; PYTEST_ARGS="-k name" for some
	$(PY) -m pytest $(PARALLEL) $(PYTEST_ARGS)

.PHONY: consistency
consistency: $(VENV)/.installed ## BSP bits on all cluster sizes, SSP over 10^5 pulls (minutes)
	CONSISTENCY=full $(PY) -m pytest --durations=0 tests/test_bsp.py tests/test_ssp.py \
	  $(PYTEST_ARGS)

.PHONY: deaths
deaths: $(VENV)/.installed ## kill workers in each phase, 400 times each (minutes)
	DEATHS=full $(PY) -m pytest --durations=0 tests/test_worker_deaths.py $(PYTEST_ARGS)

SEEDS ?= 0:10000
.PHONY: simulate
simulate: $(VENV)/.installed ## a cluster with faults in virtual time, a schedule a seed; SEEDS=0:10000
	cd tests && $(abspath $(PY)) -m simulator.run --jobs $(JOBS) --seeds $(SEEDS)

# The bugs of the servers are not in the product: a copy of the tree gets them by a patch.
MUTANTS := build/mutants
.PHONY: mutants
mutants: $(VENV)/.installed ## put known bugs back; writes tests/simulator/MUTANTS.md (minutes)
	rm -rf $(MUTANTS)/tree && mkdir -p $(MUTANTS)/tree
	git ls-files -z | xargs -0 cp -p --parents -t $(MUTANTS)/tree
	patch -s -p1 -d $(MUTANTS)/tree < tests/simulator/mutants.patch
	$(PIP) install --upgrade --no-deps --no-build-isolation --target $(MUTANTS)/site \
	  $(MUTANTS)/tree -Cbuild-dir=$(abspath $(MUTANTS))/cmake -Ccmake.define.FASTPS_BUILD_TESTS=ON
	cd tests && PYTHONPATH=$(abspath $(MUTANTS))/site \
	  $(abspath $(PY)) -m simulator.mutant_table --jobs $(JOBS)

# Each is a run of its own, and prints what it measured.
KILLS ?= 200
UNHEARD ?= 50
PAIRS ?= 50
PAUSES ?= 50
MOVES ?= 20
PARTITIONS ?= 20
SCHEDULERS ?= 20
MIXED ?= 20
TRAININGS ?= 30
FAULT = cd tests && ../$(PY) server_deaths.py
FAULT_ARGS ?=

.PHONY: failover
failover: $(VENV)/.installed ## kill, stop, cut off and move servers under load; KILLS=200 (an hour)
	$(FAULT) kills --count $(KILLS) $(FAULT_ARGS)
	$(FAULT) kills --count $(UNHEARD) --set unheard=1 $(FAULT_ARGS)
	$(FAULT) pairs --count $(PAIRS) $(FAULT_ARGS)
	$(FAULT) losses --count 3 $(FAULT_ARGS)
	$(FAULT) pauses --count $(PAUSES) $(FAULT_ARGS)
	$(FAULT) moves --count $(MOVES) $(FAULT_ARGS)
	$(FAULT) moves --count 4 --set replication=1 $(FAULT_ARGS)
	$(FAULT) schedulers --count $(SCHEDULERS) $(FAULT_ARGS)
	$(FAULT) mixed --count $(MIXED) $(FAULT_ARGS)
	$(FAULT) partitions --count $(PARTITIONS) $(FAULT_ARGS)
	$(FAULT) bsp --count $(TRAININGS) $(FAULT_ARGS)
	$(FAULT) ssp --count $(TRAININGS) $(FAULT_ARGS)
	$(FAULT) calls --count 2 $(FAULT_ARGS)

COUNT ?= 100
.PHONY: checkpointdeaths
checkpointdeaths: $(VENV)/.installed ## kill each role in saves, COUNT=100 times each (minutes)
	cd tests && ../$(PY) checkpoint_deaths.py kills --count $(COUNT) $(FAULT_ARGS)

.PHONY: bench
bench: $(VENV)/.installed ## measure this machine; BENCH_ARGS="--keys 1000000" for less
	$(PY) -m fastps_bench sparse --rivals numpy $(BENCH_ARGS)

.PHONY: wheel
wheel: $(VENV)/.tools ## build dist/fastps-*.whl
	$(PIP) wheel . --no-deps --no-build-isolation -w dist \
	  -Cbuild-dir=build/wheel -Ccmake.define.FASTPS_BUILD_TESTS=OFF

# ---- Check

.PHONY: lint
lint: $(VENV)/.dev ## check format, style and types of all sources
	$(PY) -m ruff check $(PYTHON_PATHS)
	$(PY) -m ruff format --check $(PYTHON_PATHS)
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)
	$(PY) -m pytest -q --noconftest tests/test_architecture.py

.PHONY: format
format: $(VENV)/.dev ## rewrite all sources in the common format
	$(PY) -m ruff check --fix-only $(PYTHON_PATHS)
	$(PY) -m ruff format $(PYTHON_PATHS)
	$(VENV)/bin/clang-format -i $(CPP_FILES)

# A package of its own, found before the installed one. Python itself has no sanitizer in it, so
# theirs must be loaded first; without libstdc++ beside it, ASan cannot see exceptions. Leaks are
# not looked for: Python never frees all it has.
.PHONY: asan
asan: $(VENV)/.installed ## run the tests under AddressSanitizer and UBSan
	$(PIP) install --upgrade --no-deps --no-build-isolation --target build/asan/site . \
	  -Cbuild-dir=build/asan/cmake -Ccmake.build-type=RelWithDebInfo \
	  $(TEST_PARTS) -Ccmake.define.FASTPS_SANITIZER=address,undefined
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  PYTHONPATH=$(CURDIR)/build/asan/site \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  $(PY) -m pytest -o timeout=600 $(PARALLEL) $(PYTEST_ARGS)

# The sanitizers of C++ programs of our own need nothing preloaded. libzmq has none in it, so what it
# does on its own threads is not looked at.
LIBZMQ = $(shell $(PY) -c 'from fastps import _libzmq; print(_libzmq.describe()[0])')
NATIVE := -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPython_EXECUTABLE=$(abspath $(PY))
SECONDS ?= 60

.PHONY: tsan
tsan: $(VENV)/.installed ## many threads under ThreadSanitizer, embedded and over sockets; SECONDS=60
	$(VENV)/bin/cmake -S . -B build/tsan $(NATIVE) -DFASTPS_SANITIZER=thread \
	  -DFASTPS_BUILD_STRESS=ON -Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir)
	$(VENV)/bin/cmake --build build/tsan --target fastps_stress
	build/tsan/cpp/stress/fastps_stress --seconds $(SECONDS)
	TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
	  build/tsan/cpp/stress/fastps_stress --seconds $(SECONDS) --libzmq $(LIBZMQ)

# libFuzzer comes with clang (Debian: clang-19, libclang-rt-19-dev).
FUZZ_CXX ?= clang++-19
.PHONY: fuzz
fuzz: $(VENV)/.installed ## search for bytes that harm a server or client; needs clang; SECONDS=60
	$(VENV)/bin/cmake -S . -B build/fuzz $(NATIVE) -DCMAKE_CXX_COMPILER=$(FUZZ_CXX) \
	  -DFASTPS_SANITIZER=address,undefined,fuzzer-no-link \
	  -DFASTPS_BUILD_FUZZ=ON -Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir)
	$(VENV)/bin/cmake --build build/fuzz --target fastps_fuzz
	$(PY) cpp/fuzz/seeds.py tests/golden/wire_v1 build/fuzz/corpus
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 build/fuzz/cpp/fuzz/fastps_fuzz \
	  -max_total_time=$(SECONDS) -max_len=4096 -artifact_prefix=build/fuzz/ build/fuzz/corpus

.PHONY: clean
clean: ## remove all that make made
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python bench tests examples -name __pycache__ -prune -exec rm -rf {} +

# ---- The virtual environment: each stamp names what is in it

$(VENV)/.tools: pyproject.toml .ci/system-packages .ci/requirements.py
	@.ci/system-packages $(PYTHON)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "make: installing what builds, runs and tests fastps into $(VENV)"
	@$(PIP) install --quiet --upgrade 'pip>=23.1'
	@$(PIP) install --quiet $$($(PY) .ci/requirements.py build run train test)
	@touch $@

$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	@echo "make: building fastps (some minutes the first time)"
	@$(PIP) install --quiet --no-deps --no-build-isolation $(TEST_BUILD) .
	@touch $@

$(VENV)/.dev: $(VENV)/.tools
	@echo "make: installing linters into $(VENV)"
	@$(PIP) install --quiet $$($(PY) .ci/requirements.py dev)
	@touch $@
