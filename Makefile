SHELL := /bin/bash
.DEFAULT_GOAL := help
RUN := .venv/bin
DEMO := demo
SOURCES := manifests curation training pipelines tests benchmarks

# Container images set this, and then every process compiles all that it imports anew: 2 s of pandas, 3 s of torch.
unexport PYTHONDONTWRITEBYTECODE

help: ## what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## virtual environment, pinned packages, Java; nothing on a second run
	@./setup.sh

demo: setup ## samples -> curate -> report -> TAE and text-to-video training -> a film, in ./demo
	@$(RUN)/dailies samples $(DEMO)/media
	@$(RUN)/dailies curate $(DEMO)/media --out $(DEMO)/dataset --config tiny
	@$(RUN)/dailies verify $(DEMO)/dataset
	@$(RUN)/dailies train tae --data $(DEMO)/dataset --out $(DEMO)/tae --config tiny
	@$(RUN)/dailies train t2v_256 --data $(DEMO)/dataset --out $(DEMO)/t2v --tae $(DEMO)/tae --config tiny steps=200
	@$(RUN)/dailies generate "The camera pans right over a city of lit windows at night." --models $(DEMO)/tae --models $(DEMO)/t2v \
		--aspect 16:9 --out $(DEMO)/film.mp4
	@$(RUN)/dailies report $(DEMO)/dataset
	@echo
	@echo "Look at:  $(DEMO)/dataset/report.html                  what came in, what each rule decided"
	@echo "          $(DEMO)/tae/pictures/                        held-out clips beside their reconstructions"
	@echo "          $(DEMO)/film.html                            a film made from a prompt, and what it was made from"
	@echo "          $(RUN)/tensorboard --logdir $(DEMO)/tae      the loss and PSNR"
	@echo "          $(RUN)/dailies explain $(DEMO)/dataset pan_right.mp4"

PYTEST = PATH="$(CURDIR)/$(RUN):$$PATH" $(RUN)/python -m pytest

# Units run side by side, each with one thread: threads that wait for each other on shared cores take minutes. Engines and training take
# turns at waiting, so they run at the same time, training with some of the engines' tests, which makes both about as long, on one curation of
# the samples, which units make; training is told of when engines are done. 5: no test was chosen.
BESIDE = $(addprefix tests/engines/test_, docs.py adding_a_measure.py store_processes.py class_archive.py spark_cluster.py)

test: setup ## every test: units, engines, training
	@shared=$$(mktemp -d); export DAILIES_SAMPLES=$${DAILIES_SAMPLES:-$$shared/samples} DAILIES_CURATED=$$shared/curated; \
		OMP_NUM_THREADS=1 $(PYTEST) tests/unit -n auto --maxprocesses 4 --dist loadfile $(ARGS); units=$$?; \
		[ $$units -eq 0 ] || [ $$units -eq 5 ] || exit $$units; \
		log=$$(mktemp); { $(PYTEST) tests/train $(BESIDE) $(ARGS) > $$log 2>&1; } & train=$$!; \
		$(PYTEST) tests/engines $(BESIDE:%=--ignore=%) $(ARGS); engines=$$?; wait $$train; train=$$?; cat $$log; rm -rf $$log $$shared; \
		for status in $$engines $$train; do [ $$status -eq 0 ] || [ $$status -eq 5 ] || exit $$status; done

test-paddle: setup ## PaddleOCR's reader, in an environment of its own (it pins its own OpenCV)
	@(command -v uv >/dev/null && uv=uv || uv=.tools/uv/bin/uv; [ -x .venv-paddle/bin/python ] || $$uv venv --quiet --python $${PYTHON:-python3} .venv-paddle; \
		$$uv pip install --quiet --python .venv-paddle/bin/python --no-deps -r requirements-paddle.txt)
	@PYTHONPATH=. .venv-paddle/bin/python -m pytest tests/paddle $(ARGS)

quick: setup ## unit tests only, seconds
	@OMP_NUM_THREADS=1 $(PYTEST) tests/unit -q -n auto --maxprocesses 4 --dist loadfile -m "not engine and not train" $(ARGS)

lint: setup ## ruff and mypy
	@$(RUN)/ruff check $(SOURCES)
	@$(RUN)/ruff format --check $(SOURCES)
	@$(RUN)/mypy

format: setup ## rewrite the sources in the one format
	@$(RUN)/ruff check --fix $(SOURCES)
	@$(RUN)/ruff format $(SOURCES)

bench: setup ## the figures in README, each beside its peer
	@$(RUN)/python benchmarks/decode.py
	@$(RUN)/python benchmarks/ocr_cost.py
	@$(RUN)/python benchmarks/copies_cost.py
	@$(RUN)/python benchmarks/peers.py
	@$(RUN)/python benchmarks/accuracy.py
	@$(RUN)/python benchmarks/fuzz.py --cases 20000
	@$(RUN)/python benchmarks/loader.py
	@$(RUN)/python benchmarks/trainer.py
	@$(RUN)/python benchmarks/planner.py
	@$(RUN)/python benchmarks/tae.py

lock: setup ## renew requirements.txt from pyproject.toml, without addresses
	@(command -v uv >/dev/null && uv=uv || uv=.tools/uv/bin/uv; $$uv pip compile pyproject.toml --extra curate --extra train --extra audit --extra dev \
		--python-version 3.11 --universal --no-header --no-annotate --no-emit-index-url --quiet -o requirements.txt)

clean: ## remove what the demo made
	@rm -rf $(DEMO)

.PHONY: help setup demo test test-paddle quick lint format bench lock clean
