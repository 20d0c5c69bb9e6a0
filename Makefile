# make train   sets everything up in .venv and trains; ARGS="task=… mode=…" trains anything else
# make test    sets everything up, then lint, types and all tests
# make gpu-check   ten minutes at most on this machine's GPU: results/gpu/NAME.md; installs nothing

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?= task=cartpole-swingup mode=back_plan preset=quick

.PHONY: gpu-check train test lint types setup setup-dev clean

train: setup
	$(BIN)/python src/train.py $(ARGS)

test: setup-dev lint types
	$(BIN)/python -m pytest -n 3 --dist worksteal tests

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/mypy

# with what is installed: the environment's Python, or else another one
gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_check.py $(CHECK)

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# theseus-ai's build imports torch, and its metadata asks for a package that it does not need:
# pip can only install it after the rest, without isolation and without its dependencies. Its
# CUDA extensions are sparse solvers that nothing here uses, and building them needs nvcc.
$(VENV)/.installed: requirements.txt requirements-theseus.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed; say where: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"Python 3.11 is needed, this is {v[0]}.{v[1]}; say where: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): torch, Theseus, MuJoCo and the rest; this takes some minutes once"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	THESEUS_FORCE_CUDA=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -r requirements-theseus.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@echo "pip will say that theseus-ai lacks scikit-sparse: nothing here needs it"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV)
