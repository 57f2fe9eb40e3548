# People, hooks and pipeline jobs call these same targets.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# What is installed is told by content: in a pipeline times of files are those of the checkout.
INSTALLED := $(VENV)/.installed-$(shell sha256sum requirements.txt | head -c 16)
SOURCES := raincast train.py prediction.py tests data benchmarks ci ci/deploy ci/manifests
# checkov and MLflow cannot be in one environment.
MANIFEST_TOOLS := $(VENV)/manifests/.installed-$(shell sha256sum ci/requirements-manifests.txt | head -c 16)
# What a model is made of and by. In a pipeline the model comes from another job, and is older than the checkout.
MODEL_FROM := $(if $(CI),,train.py requirements.txt data/observations.csv.gz data/stations.csv $(wildcard raincast/*.py))
COMMA := ,
# Asked only by who installs.
HAS_PIP = $(shell $(PYTHON) -m pip --version 2>/dev/null)
PIP_INSTALL = $(if $(HAS_PIP),$(PYTHON) -m pip --python $(BIN)/python,$(BIN)/python -m pip) install --quiet \
  --disable-pip-version-check --require-hashes
# GitLab shows this report in the merge request.
CODE_QUALITY := $(if $(CI),--load-plugins=ci.code_quality --output-format=text$(COMMA)code-quality:reports/codequality.json)
GITLAB_CI_LOCAL := .cache/npm/node_modules/.bin/gitlab-ci-local

.PHONY: help forecast train predict serve test lint format unit integration accuracy performance image publish pipeline \
  pages release-notes sign deployment manifests deploy load benchmark benchmark-training \
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

test: lint model/model.json $(MANIFEST_TOOLS)  ## lint, then every test
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## formatting, pylint (10.00), types, Dockerfile, pipeline
	@mkdir -p reports
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci .gitlab-ci.yml ci/*.yml
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/pylint --fail-under=10 $(CODE_QUALITY) $(SOURCES)

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format $(SOURCES)

unit: $(INSTALLED)  ## tests of one module each
	$(BIN)/python -m pytest tests/$@

integration: model/model.json  ## tests of commands, service and gates as a whole
	$(BIN)/python -m pytest tests/$@

accuracy: model/model.json  ## is the model good enough, and no worse than the one in use ($$CI_REGISTRY_IMAGE:latest)?
	$(BIN)/python -m ci.image champion champion
	$(BIN)/python -m pytest tests/accuracy
	@$(BIN)/python ci/accuracy.py --champion champion

performance: model/model.json  ## is it fast and small enough?
	$(BIN)/python -m pytest tests/performance

image: model/model.json  ## build the image of this commit as raincast:local; needs buildah and skopeo
	$(BIN)/python -m ci.image build

publish: image  ## push it to $$CI_REGISTRY_IMAGE, with its bill of materials and provenance
	$(BIN)/python -m ci.image publish

sign:         ## sign the published image with the job's identity
	ci/sign

pipeline: $(INSTALLED) $(GITLAB_CI_LOCAL)  ## run .gitlab-ci.yml for master here, with a registry; PIPELINE="--help"
	$(BIN)/python -m ci.pipeline $(PIPELINE)

pages: $(if $(CI),,model/model.json)  ## the model's report as a site, in public/
	rm -rf public && cp -r model/report public && cp public/model-card.html public/index.html

release-notes:  ## what CHANGELOG.md says of $$CI_COMMIT_TAG, in reports/release-notes.md
	ci/release-notes

deployment: model/model.json $(MANIFEST_TOOLS)  ## tests of manifests and ci/deploy, and a short load test
	$(BIN)/python -m pytest tests/$@

manifests: $(INSTALLED) $(MANIFEST_TOOLS)  ## render k8s/ and check it: schemas, policies, rules of alerts
	PATH="$(VENV)/manifests/bin:$$PATH" $(BIN)/python ci/manifests

deploy:       ## ENV=staging|production IMAGE=REPOSITORY@sha256:DIGEST, with the model directory of the image
	ci/deploy $(ENV)

load: $(INSTALLED)  ## the image under twice its load, stopped and started; IMAGE=raincast:local
	LOAD_SECONDS=30 LOAD_STARTS=100 $(BIN)/python -m pytest -s tests/deployment/test_load.py

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
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade \
	  ci/requirements-manifests.in -o ci/requirements-manifests.txt

clean:        ## remove what was made: environment, model, runs
	rm -rf $(VENV) model mlflow.db mlruns mlartifacts

# The table goes to the model's report as well, from where `forecast` shows it every time.
model/model.json: $(MODEL_FROM) | $(INSTALLED)
	$(BIN)/python train.py >/dev/null

# uv installs in seconds what pip takes a minute for; pip brings it, with the hash that is pinned, and stands in for it
# where an index needs pip's own settings. A pip in the environment takes longer to make than all the rest.
$(INSTALLED): requirements.txt
	$(PYTHON) -m venv $(if $(HAS_PIP),--without-pip) $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.txt > $(VENV)/uv.txt
	$(PIP_INSTALL) -r $(VENV)/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt || \
	  $(PIP_INSTALL) -r requirements.txt
	@rm -f $(VENV)/.installed-* && touch $@

$(MANIFEST_TOOLS): ci/requirements-manifests.txt | $(INSTALLED)
	$(PYTHON) -m venv $(if $(HAS_PIP),--without-pip) $(VENV)/manifests
	$(BIN)/uv pip install --quiet --python $(VENV)/manifests/bin/python --require-hashes -r $< || \
	  $(subst $(BIN),$(VENV)/manifests/bin,$(PIP_INSTALL)) -r $<
	@rm -f $(VENV)/manifests/.installed-* && touch $@

$(GITLAB_CI_LOCAL):
	npm install --no-save --silent --prefix .cache/npm gitlab-ci-local@4.73.0
