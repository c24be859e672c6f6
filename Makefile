# make demo | make test — both work on a fresh clone if Python ≥ 3.11 and pip are installed.
PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
AUTO_LIRPA_SPEC ?= auto-LiRPA==0.3
ONNX2TORCH_SPEC ?= onnx2torch==1.5.15
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
OUT := results/digits

.PHONY: help demo test lint test-browser test-lirpa fuzz operators hostile forge brute sanitize gpu-check clean
help:
	@echo "make demo                     train, certify, compare and export on the digits data ($(OUT)/)"
	@echo "make test                     run lint and the test suite"
	@echo "make lint                     check style, types, imports and spelling"
	@echo "make test-browser             test the page of a report in Chromium: two widths, two themes"
	@echo "make test-lirpa LIRPA=path    run the tests of bounds with another copy of auto_LiRPA"
	@echo "make fuzz                     try to break certificates on random nets, about 15 minutes (results/fuzz.json)"
	@echo "make operators [LIRPA=path]   search auto_LiRPA for operators that it bounds wrongly (results/operators.json)"
	@echo "make hostile                  give malformed files to all code that reads files (results/hostile)"
	@echo "make forge                    change each part of certified files, one at a time, and verify them"
	@echo "make brute                    check exact radii by a search in rational arithmetic (results/exact)"
	@echo "make sanitize                 test kernels and operators' arguments; gcc's sanitizers stop at bad addresses"
	@echo "make gpu-check                check everything that uses a GPU, within ten minutes (results/gpu-check.json)"
	@echo "variables: PYTHON=$(PYTHON) TORCH_SPEC='$(TORCH_SPEC)' VENV=$(VENV) WORKERS=$(WORKERS)"

# The package comes first and alone, because pip shows only with --verbose what is compiled; then what its extras ask for.
# Installs auto_LiRPA without its dependencies, because its metadata forbid a current torch; and onnx2torch, because its
# metadata ask for torchvision, whose wheels on PyPI are built for another torch than one for CPUs.
$(VENV)/.installed: setup.cfg setup.py pyproject.toml $(wildcard linf_plugin/kernels/cpu*.cpp linf_plugin/kernels/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install "$(TORCH_SPEC)"
	$(BIN)/python -m pip install --verbose --no-deps --editable .
	$(BIN)/python -m pip install "linf-plugin[all,test,lint]"
	$(BIN)/python -m pip install --no-deps "$(AUTO_LIRPA_SPEC)" "$(ONNX2TORCH_SPEC)"
	touch $@

# Two parsers with the same name, for the tests.  One reads VNN-LIB 1.0; it is compiled here and needs a C compiler.
# The other reads VNN-LIB 2.0.
$(VENV)/vnnlib-1: PARSER := vnnlib==0.0.1
$(VENV)/vnnlib-2: PARSER := vnnlib==1.0.2
$(VENV)/vnnlib-1 $(VENV)/vnnlib-2: | $(VENV)/.installed
	$(BIN)/python -m pip install --no-deps --target $@ $(PARSER)

demo: $(VENV)/.installed
	$(BIN)/linf-compare run digits --methods linf-dist,linf-dist-mlp,ibp,crown-ibp --jobs 2 --out $(OUT) --resume
	$(BIN)/linf-export model $(OUT)/linf-dist.pt -o $(OUT)/linf-dist.onnx --force
	$(BIN)/linf-export show $(OUT)/linf-dist.onnx
	$(BIN)/linf-export verify $(OUT)/linf-dist.onnx
	$(BIN)/linf-export check $(OUT)/linf-dist.onnx

# lint comes before the tests because it takes only seconds.
test: lint $(VENV)/.installed $(VENV)/vnnlib-1 $(VENV)/vnnlib-2
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

# Pytest finds the file by its name only, so that `make test` needs no browser.
test-browser: $(VENV)/.installed
	$(BIN)/python -m pytest tests/browser/check_page.py

# The same tests of bounds, with another copy of auto_LiRPA first on the path.  Version 0.7.1 imports two more packages.
test-lirpa: $(VENV)/.installed
	@test -d "$(LIRPA)/auto_LiRPA" || { echo "usage: make test-lirpa LIRPA=folder that holds auto_LiRPA/"; exit 2; }
	$(BIN)/python -m pip install --quiet packaging graphviz
	PYTHONPATH="$(abspath $(LIRPA))" $(BIN)/python -m pytest tests/linf_plugin/bounds tests/linf_plugin/certificates

# By default, idle threads spin.  They would slow down the evaluations that use two threads.
fuzz: $(VENV)/.installed
	OMP_WAIT_POLICY=passive PYTHONPATH=tests $(BIN)/python -m fuzz --workers $(WORKERS) --out results/fuzz.json

operators: $(VENV)/.installed
	$(if $(LIRPA),$(BIN)/python -m pip install --quiet packaging graphviz)
	PYTHONPATH="$(if $(LIRPA),$(abspath $(LIRPA)):)tests" $(BIN)/python -m operators --out results/operators.json

hostile: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python -m hostile --out results/hostile

forge: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python -m forge

brute: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python -m brute --out results/exact

# Works on a copy of the package, so that the library in use stays unchanged.  Leaks are not reported, because torch
# never frees its own memory.  The checks are function calls, which compile in a fifth of the time.  One test is left
# out: it reads 2³¹ numbers, and each would take a call.
SANITIZE := -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined --param=asan-instrumentation-with-call-threshold=0
sanitize: $(VENV)/.installed
	rm -rf build/sanitize
	mkdir -p build/sanitize
	cp -r linf_plugin tests setup.py setup.cfg pyproject.toml README.md build/sanitize
	rm -f build/sanitize/linf_plugin/kernels/*.so
	cd build/sanitize && CC=gcc CXX=g++ LINF_CXXFLAGS="$(SANITIZE)" \
		$(abspath $(BIN))/python setup.py -q build_ext --inplace
	test -f build/sanitize/linf_plugin/kernels/libcpu.so
	cd build/sanitize && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=. \
		$(abspath $(BIN))/python -m pytest tests/linf_plugin/kernels/test_cpu.py \
		tests/linf_plugin/test_operator_arguments.py \
		--deselect tests/linf_plugin/kernels/test_cpu.py::test_offsets_beyond_32_bits

# Uses the Python that is there and installs nothing; that Python needs only torch and NumPy.  Status 3 means that there
# is no GPU, and is not an error.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu-check:
	PYTHONPATH="tests:.$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON) -m gpu_check --out results/gpu-check.json || test $$? -eq 3

clean:
	rm -rf $(VENV) build dist results *.egg-info linf_plugin/kernels/*.so
