# Every command of this repository. `make` alone shows them.
#
# PY=python3 uses that interpreter as it is; without it the commands build .venv from requirements.txt and constraints.txt first.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

EXPERIMENT ?=
PAPER ?=
SEEDS ?= 0
LINES ?= 3
SECONDS ?= 120
MINUTES ?= 0
GPUS ?=
NODES ?= 1
NODE_RANK ?= 0
MASTER ?=
ARGS ?=
OUT ?= runs
RUN ?=
RUNS ?=
FORMAT ?= safetensors
TO ?=
BASE_PYTHON ?= python3
export ARGS FORMAT OUT RUN RUNS TO

ifdef PY
PYTHON := $(PY)
SETUP :=
else
PYTHON := .venv/bin/python
SETUP := .venv/stamp
endif

PAPERS := $(sort $(patsubst papers/%/train.py,%,$(wildcard papers/*/train.py)))

.PHONY: .venv/stamp help setup test test-all torture lint tables site list smoke replay wandb compare

help: ## these lines
	@echo "papers: $(PAPERS)"
	@echo
	@awk -F ' ## ' '/^[a-z%-]+:.* ## / { split($$1, target, ":"); sub("%", "<paper>", target[1]); printf "  make %-22s %s\n", target[1], $$2 }' Makefile
	@echo
	@echo '  make reproduce-<paper> [EXPERIMENT=name] [SEEDS="0 1 2"] [GPUS=n] [NODES=n NODE_RANK=r MASTER=host[:port]] [ARGS="..."]'

setup: $(SETUP) ## build .venv (every command does it when it is needed)

# The stamp holds what the environment was built from. One builds, under a lock, others wait; what make did not build stays as it is.
.venv/stamp:
	@{ if command -v flock > /dev/null; then flock 9; fi; \
	want="$$(PATH="$$PATH:/usr/bin:/bin"; cat requirements.txt constraints.txt | cksum)"; \
	! [ -e .venv/stamp ] || [ "$$(cat .venv/stamp)" != "$$want" ] || exit 0; \
	[ ! -L .venv ] || { [ -x .venv/bin/python ] && exit 0; echo "error: .venv is a link to $$(readlink .venv), which has no bin/python: take it away" >&2; exit 2; }; \
	[ ! -e .venv ] || [ -e .venv/stamp ] || [ -e .venv.building ] || { echo "error: .venv was not built by make: move it away, or use it as it is with PY=.venv/bin/python" >&2; exit 2; }; \
	command -v $(BASE_PYTHON) > /dev/null || { echo "error: no $(BASE_PYTHON) here: install Python 3.11 or newer, or name one with BASE_PYTHON=..." >&2; exit 2; }; \
	$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(BASE_PYTHON) --version) is too old: install Python 3.11 or newer, or name one with BASE_PYTHON=..." >&2; exit 2; }; \
	$(BASE_PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { echo "error: $(BASE_PYTHON) has no venv module: install it (Debian: apt install python3-venv), or use an interpreter that has the packages, with PY=..." >&2; exit 2; }; \
	echo "building .venv (about 6 GB, once; a minute or two)"; \
	touch .venv.building && $(BASE_PYTHON) -m venv --clear .venv \
	&& .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt \
	&& echo "$$want" > $@ && rm -f .venv.building; } 9> .venv.lock

reproduce-%: $(SETUP) ## train, evaluate, compare with the paper
	@exec $(PYTHON) -m tools.launch --paper $* --experiment "$(EXPERIMENT)" --seeds "$(SEEDS)" --gpus "$(GPUS)" --nodes $(NODES) --node-rank $(NODE_RANK) --master "$(MASTER)" --out "$$OUT" --args="$$ARGS"

smoke: $(SETUP) $(addprefix smoke-,$(PAPERS)) ## the smoke experiment of every paper: seconds each

smoke-%: $(SETUP) ## the whole path of one paper in seconds, on stand-in data
	@exec $(PYTHON) -m tools.launch --paper $* --experiment smoke --gpus "$(GPUS)" --out "$$OUT" --args="--restart $$ARGS"

evaluate-%: $(SETUP) ## official weights through our model (ARGS="WEIGHTS ...")
	@if [ -f papers/$*/pretrained.py ]; then exec $(PYTHON) -m papers.$*.pretrained $(ARGS) --out "$$OUT"; \
	elif [ -d papers/$* ]; then echo "$*: there are no official weights, so nothing to evaluate"; \
	else echo "error: no paper '$*': there are $(PAPERS)" >&2; exit 2; fi

export-%: $(SETUP) ## what a run has learned, for other programs (RUN=runs/... FORMAT=safetensors | onnx | torchvision | ...)
	@exec $(PYTHON) -m tools.export --paper $* --run "$$RUN" --form "$$FORMAT" --to "$$TO"

benchmark-%: $(SETUP) ## speed against the straightforward way, as a ratio
	@if [ -f papers/$*/benchmark.py ]; then exec $(PYTHON) -m papers.$*.benchmark $(ARGS); \
	elif [ -d papers/$* ]; then echo "$*: no benchmark"; \
	else echo "error: no paper '$*': there are $(PAPERS)" >&2; exit 2; fi

REPLAY = $(PYTHON) -m tools.replay --experiment "$(EXPERIMENT)" $(if $(filter command line environment,$(origin SEEDS)),--seeds $(SEEDS)) \
	--lines $(LINES) --seconds $(SECONDS) --minutes $(MINUTES) $(if $(MARK),--mark)

replay: $(SETUP) ## does every published number hold at today's code? (MINUTES=20 for the cheapest; MARK=1 marks what does not)
	@exec $(REPLAY)

replay-%: $(SETUP) ## the same of one paper (EXPERIMENT= SEEDS= LINES= SECONDS=)
	@exec $(REPLAY) --paper "$*"

publish-%: $(SETUP) ## put finished runs of OUT (runs/) into the repository and its tables
	@exec $(PYTHON) -m tools.publish $* "$$OUT"

wandb: $(SETUP) ## the published runs in your own W&B project, beside yours (or offline, to sync)
	@exec $(PYTHON) -m tools.wandb --out "$$OUT"

wandb-%: $(SETUP) ## the same of one paper
	@exec $(PYTHON) -m tools.wandb --paper $* --out "$$OUT"

compare: $(SETUP) ## runs, yours or published, in one table and one picture (RUNS="runs/... PAPER/EXPERIMENT" TO=compare.png)
	@exec $(PYTHON) -m tools.compare $(RUNS) --to "$$TO"

tables: $(SETUP) ## rewrite every generated table
	@exec $(PYTHON) -m tools.tables write

site: $(SETUP) ## pages to read beside the papers, in site/ (ARGS="resnet" for some, --marks, --out)
	@exec $(PYTHON) -m tools.site $(ARGS)

list: $(SETUP) ## every experiment, claim, cost and verdict so far, what ran first (PAPER=name for one)
	@exec $(PYTHON) -m tools.tables list $(PAPER)

test: $(SETUP) ## the tests, less those marked slow (ARGS="-k lstm" for some)
	@exec $(PYTHON) -m pytest $(ARGS)

test-all: $(SETUP) ## all tests
	@exec $(PYTHON) -m pytest -m "slow or not slow" $(ARGS)

torture: $(SETUP) ## smoke runs killed at random end as others do (MINUTES=3)
	@exec $(PYTHON) -m tests.torture $(if $(filter command line environment,$(origin MINUTES)),--minutes $(MINUTES))

lint: $(SETUP) ## style
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
