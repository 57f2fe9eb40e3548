# People, hooks and pipeline jobs call these same targets.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# The names of these stamps depend on the content of the lock files, because a checkout changes the files' times.
INSTALLED := $(VENV)/.installed-$(shell sha256sum requirements.txt | head -c 16)
# checkov and MLflow need different versions of packages, and so different environments.
MANIFEST_TOOLS := $(VENV)/manifests/.installed-$(shell sha256sum ci/requirements-manifests.txt | head -c 16)
SOURCES := raincast train.py prediction.py tests data benchmarks ci
# The inputs of a model. In a pipeline the model comes from another job and is older than the checkout.
MODEL_FROM := $(if $(CI),,train.py requirements.txt data/observations.csv.gz data/stations.csv \
  $(wildcard raincast/*.py raincast/*/*.py))
COMMA := ,
FUZZ_MINUTES ?= 60
HAS_PIP = $(shell $(PYTHON) -m pip --version 2>/dev/null)
PIP_INSTALL = $(if $(HAS_PIP),$(PYTHON) -m pip --python $(BIN)/python,$(BIN)/python -m pip) install --quiet \
  --disable-pip-version-check --require-hashes
# GitLab shows this report in the merge request.
CODE_QUALITY := $(if $(CI),--output-format=text$(COMMA)code-quality:reports/codequality.json)
PYLINT = PYTHONPATH=. $(BIN)/pylint --fail-under=10 --load-plugins=ci.pylint_speed,ci.code_quality $(CODE_QUALITY)
GITLAB_CI_LOCAL := .cache/npm/node_modules/.bin/gitlab-ci-local
SITE := .cache/site
# Without IMAGE the load test builds the image.
LOAD_NEEDS := need-docker $(if $(IMAGE),$(INSTALLED),need-git need-buildah need-skopeo model/model.json)
PIPELINE_NEEDS := $(addprefix need-,git npm rsync buildah skopeo kubectl promtool)
NEED_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
  echo "Python 3.11 is not installed as $(PYTHON); on Debian 12: apt-get install python3.11-venv;" \
    "elsewhere: make PYTHON=/path/to/python3.11" >&2; exit 1; }

# pip and uv install from the same index, whichever of their variables names it, and so does the build of the image.
ifneq ($(PIP_INDEX_URL)$(UV_DEFAULT_INDEX)$(UV_INDEX_URL),)
  export PIP_INDEX_URL := $(or $(value PIP_INDEX_URL),$(value UV_DEFAULT_INDEX),$(value UV_INDEX_URL))
  export UV_DEFAULT_INDEX := $(or $(value UV_DEFAULT_INDEX),$(value UV_INDEX_URL),$(PIP_INDEX_URL))
endif
ifneq ($(PIP_EXTRA_INDEX_URL)$(UV_EXTRA_INDEX_URL),)
  export PIP_EXTRA_INDEX_URL := $(or $(value PIP_EXTRA_INDEX_URL),$(value UV_EXTRA_INDEX_URL))
  export UV_EXTRA_INDEX_URL := $(or $(value UV_EXTRA_INDEX_URL),$(PIP_EXTRA_INDEX_URL))
endif
# Certificates of a registry, an index or a GitLab that no public authority signed. Each program has its own variable.
ifneq ($(CI_SERVER_TLS_CA_FILE)$(CA_FILE),)
  CERTIFICATES := $(shell ci/certificates)
  $(foreach name,SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO NODE_EXTRA_CA_CERTS,\
    $(eval export $(name) := $(CERTIFICATES)))
endif

.PHONY: help forecast train predict serve check test lint format unit integration fuzz accuracy performance image \
  publish pipeline docs pages release-notes sign deployment manifests deploy apply load benchmark benchmark-training \
  benchmark-serving benchmark-files benchmark-attacks lock clean

##@ Start

help:         ## list the targets
	@sed -nE -e 's/^##@ (.*)/\n\1/p' -e 's/^([a-z -]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

forecast: model/model.json  ## train on the bundled observations if needed, and forecast the bundled sample
	@cat model/report/scores.txt
	@echo
	@$(BIN)/python prediction.py

predict: model/model.json  ## forecast a file; INPUT=observations.csv PREDICT="-o forecasts.parquet"
	@$(BIN)/python prediction.py $(INPUT) $(PREDICT)

serve: model/model.json  ## serve forecasts over HTTP on http://127.0.0.1:8080; SERVE="--port 9000"
	@$(BIN)/python prediction.py serve $(SERVE)

##@ Develop

check: lint  ## lint and run the unit tests, fewer examples of each property; for the inner loop
	$(BIN)/python -m pytest -q --hypothesis-profile=quick tests/unit

lint: $(INSTALLED)  ## formatting, docstrings, spelling, types, pylint (10.00), Dockerfile, pipeline, documents
	@mkdir -p reports
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci .gitlab-ci.yml ci/*.yml
	$(BIN)/mkdocs build --strict --quiet --site-dir $(SITE)
	$(BIN)/mypy
	$(PYLINT) $(SOURCES)

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format $(SOURCES)

unit: $(INSTALLED)  ## tests of single modules
	$(BIN)/python -m pytest tests/$@

# The container under attack needs Docker's engine, which a job has not; `make test` runs it.
integration: model/model.json  ## tests of commands, service and quality gates, attacks and short fuzzing
	$(BIN)/python -m pytest tests/$@ tests/attacks tests/fuzz --ignore=tests/attacks/test_container.py

fuzz: model/model.json  ## fuzz connection, decoders and files for FUZZ_MINUTES=60; prints how many inputs were run
	@FUZZ_MINUTES=$(FUZZ_MINUTES) $(BIN)/python -m tests.fuzz

test: lint model/model.json $(MANIFEST_TOOLS)  ## lint and run every test
	$(BIN)/python -m pytest

pipeline: $(PIPELINE_NEEDS) $(INSTALLED) $(GITLAB_CI_LOCAL)  ## run .gitlab-ci.yml for master here, with a registry; PIPELINE="--help"
	$(BIN)/python -m ci.pipeline $(PIPELINE)

docs: $(INSTALLED)  ## build the site of the documents in .cache/site
	$(BIN)/mkdocs build --strict --quiet --site-dir $(SITE)

pages: $(INSTALLED) $(if $(CI),,model/model.json)  ## build the site with the model's report in public/
	rm -rf public
	$(BIN)/mkdocs build --strict --quiet --site-dir public
	cp -r model/report public/report

lock: $(INSTALLED)  ## pin the newest version of every dependency, with hashes
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade \
	  --extra dev pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
	  -c requirements.txt pyproject.toml -o requirements-serve.txt
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade \
	  ci/requirements-manifests.in -o ci/requirements-manifests.txt

clean:        ## remove the environment, the model and recorded runs
	rm -rf $(VENV) model mlflow.db mlruns mlartifacts

##@ Model

train: $(INSTALLED)  ## train again; TRAIN="--data PATH|URL --verify-from DATE --out DIR --no-tracking"
	$(BIN)/python train.py $(TRAIN)

accuracy: model/model.json  ## compare the model with the minimum scores and the champion (CI_REGISTRY_IMAGE:latest)
	$(BIN)/python -m ci.image champion champion
	$(BIN)/python -m pytest tests/accuracy
	@$(BIN)/python -m ci.accuracy --champion champion --report reports/accuracy.json

performance: model/model.json  ## compare speed, memory and size with their limits
	$(BIN)/python -m pytest tests/performance

##@ Image

image: need-git need-buildah need-skopeo model/model.json  ## build the image of this commit as raincast:local
	$(BIN)/python -m ci.image build

publish: need-git need-buildah need-skopeo model/model.json  ## build the image and push it to CI_REGISTRY_IMAGE, with its bill of materials and provenance
	$(BIN)/python -m ci.image publish

sign:         ## sign the published image with the job's identity
	@python3 -m ci.sign

release-notes:  ## write CHANGELOG.md's section for CI_COMMIT_TAG to reports/release-notes.md
	@python3 -m ci.release_notes

##@ Deploy

manifests: need-kubectl need-promtool $(MANIFEST_TOOLS)  ## render k8s/ and check it: schemas, policies, alerting rules
	PATH="$(VENV)/manifests/bin:$$PATH" $(BIN)/python -m ci.manifests

deployment: model/model.json $(MANIFEST_TOOLS)  ## tests of the manifests and ci.deploy, and a short load test
	$(BIN)/python -m pytest tests/$@

deploy:       ## deploy an image and go back if it fails; ENV=staging|production IMAGE=REPOSITORY@sha256:DIGEST
	@python3 -m ci.deploy $(ENV)

apply:        ## apply a changed overlay with the image that runs, and go back if it fails; ENV=staging|production
	@IMAGE= python3 -m ci.deploy $(ENV) --keep-image

load: $(LOAD_NEEDS)  ## load the image beyond its capacity, stop and restart it; IMAGE=raincast:local
	LOAD_SECONDS=30 LOAD_STARTS=100 $(BIN)/python -m pytest -s tests/deployment/test_load.py

##@ Benchmark

benchmark: model/model.json  ## time of a single forecast, compared with importing scikit-learn and pandas
	$(BIN)/python -m benchmarks.start_up

benchmark-training: $(INSTALLED)  ## train on the full record and compare with the limits; DATA=PATH
	$(BIN)/python -m benchmarks.full_record $(DATA)

benchmark-serving: $(INSTALLED)  ## compare with MLflow, FastAPI and a no-op; BENCHMARK="--model DIR --mlflow-model URI --data PATH"
	$(BIN)/python -m benchmarks.serving $(BENCHMARK)

benchmark-files: $(INSTALLED)  ## compare with pandas and scikit-learn; BENCHMARK="--model DIR --data PATH"
	$(BIN)/python -m benchmarks.files $(BENCHMARK)

benchmark-attacks: $(INSTALLED)  ## attack a running service; BENCHMARK="--url http://127.0.0.1:8080 --pid N"
	$(BIN)/python -m benchmarks.attacks $(BENCHMARK)

# The score table is in the model's report as well, from which `forecast` prints it.
model/model.json: $(MODEL_FROM) | $(INSTALLED)
	$(BIN)/python train.py >/dev/null

# Checked before anything is installed or trained. The commands of ci/ check as well, in case they are called directly.
need-%:
	@$(if $(wildcard $(BIN)/python),,$(NEED_PYTHON))
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m ci.programs $*

# uv installs in seconds what takes pip a minute. pip installs uv, with its pinned hash, and replaces it if an index needs
# pip's own settings. An environment without pip of its own is made faster.
$(INSTALLED): requirements.txt
	@$(NEED_PYTHON)
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

$(GITLAB_CI_LOCAL): | need-npm
	npm install --no-save --silent --prefix .cache/npm gitlab-ci-local@4.73.0
