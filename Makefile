# People, hooks and pipeline jobs call these same targets.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := raincast train.py prediction.py tests data benchmarks
# What a model is made of and by.
MODEL_FROM := train.py requirements.txt data/observations.csv.gz data/stations.csv $(wildcard raincast/*.py)

.PHONY: help forecast train predict serve test lint format unit integration accuracy benchmark benchmark-training \
  benchmark-serving benchmark-files lock clean

help:         ## what there is
	@sed -nE 's/^([a-z -]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 28

forecast: model/model.json  ## train on the bundled observations, if not done yet, and forecast the bundled sample
	@cat model/report/scores.txt
	@echo
	@$(BIN)/python prediction.py

train: $(INSTALLED)  ## train anew; TRAIN="--data PATH|URL --verify-from DATE --out DIR --no-tracking"
	$(BIN)/python train.py $(TRAIN)

predict: model/model.json  ## forecast; INPUT=observations.csv PREDICT="-o forecasts.parquet"
	@$(BIN)/python prediction.py $(INPUT) $(PREDICT)

serve: model/model.json  ## forecasts over HTTP on http://127.0.0.1:8080; SERVE="--port 9000"
	@$(BIN)/python prediction.py serve $(SERVE)

test: lint model/model.json  ## lint, then every test
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## formatting, pylint (10.00), types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pylint --fail-under=10 $(SOURCES)
	$(BIN)/mypy

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format $(SOURCES)

unit integration accuracy: model/model.json  ## one kind of test
	$(BIN)/python -m pytest tests/$@

benchmark: model/model.json  ## a forecast from start to end, beside importing scikit-learn and pandas
	$(BIN)/python benchmarks/start_up.py

benchmark-training: $(INSTALLED)  ## train on the full record and hold it against its bars; DATA=PATH
	$(BIN)/python benchmarks/full_record.py $(DATA)

benchmark-serving: $(INSTALLED)  ## beside MLflow, FastAPI and a no-op; BENCHMARK="--model DIR --mlflow-model URI --data PATH"
	$(BIN)/python benchmarks/serving.py $(BENCHMARK)

benchmark-files: $(INSTALLED)  ## beside pandas and scikit-learn; BENCHMARK="--model DIR --data PATH"
	$(BIN)/python benchmarks/files.py $(BENCHMARK)

lock: $(INSTALLED)  ## pin every dependency anew, with hashes
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade \
	  --extra dev pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
	  -c requirements.txt pyproject.toml -o requirements-serve.txt

clean:        ## remove what was made: environment, model, runs
	rm -rf $(VENV) model mlflow.db mlruns mlartifacts

# The table goes to the model's report as well, from where `forecast` shows it every time.
model/model.json: $(MODEL_FROM) | $(INSTALLED)
	$(BIN)/python train.py >/dev/null

$(INSTALLED): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@
