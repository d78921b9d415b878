# Every target works on a fresh machine with python3, pip, venv, make and git.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
# A local copy of Team 13's photographs, if there is one next to the project; otherwise they are downloaded.
export VITRINE_TEAM13_DIR ?= $(abspath $(wildcard ../shared/team13))
# The same for the photographs used to pretrain backbones.
export VITRINE_PHOTOS_DIR ?= $(abspath $(wildcard ../shared/photos))

.DEFAULT_GOAL := help
.PHONY: setup lock deps repro test check lock-check certify team13 team13-crossval team13-active crossval active export pretrain render video realism app pictures plots diff gate bench kill-test scale-demo faults readme help ood outliers

setup: .venv/installed  ## Create the environment (about 8 GB, once)

.venv/installed: requirements.lock pyproject.toml
	python3 -m venv .venv
	pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: setup  ## Pin the requirements of pyproject.toml with hashes; keep pins that still fit
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --quiet --output-file requirements.lock
	python tools/lineage.py

deps: setup  ## Update the modules and packages of every stage in dvc.yaml from the imports
	python tools/lineage.py

repro: setup  ## Run the pipeline: data, training, evaluation, index, report
	dvc repro

team13: setup  ## Fetch Team 13's real photographs and run the pipeline on them, as an experiment
	dvc repro data/team13/dvc.yaml
	grep -hv '^#' data/team13/dataset | sed 's/^/-S /' | xargs dvc exp run

ood: setup  ## Evaluate "none of these" on real photographs of other things ($VITRINE_PHOTOS_DIR)
	dvc repro ood/dvc.yaml

outliers: setup  ## Rerender objects that belong to none of the sample's classes
	dvc repro data/outliers/dvc.yaml

team13-crossval: setup  ## Cross-validate on Team 13's photographs, as an experiment; write report/crossval_team13.*
	dvc repro data/team13/dvc.yaml
	grep -hv '^#' data/team13/dataset | sed 's/^/-S /' | xargs dvc exp run crossval/dvc.yaml
	python tools/keep_team13.py

team13-active: setup  ## Simulate labeling on Team 13's photographs, as an experiment; write report/active_team13.csv
	dvc repro data/team13/dvc.yaml
	grep -hv '^#' data/team13/dataset | sed 's/^/-S /' | xargs dvc exp run active/dvc.yaml
	cp plots/active/gains.csv report/active_team13.csv

active: setup  ## Simulate labeling: selected items compared with random ones
	dvc repro active/dvc.yaml

export: setup  ## Export all systems, measure how their predictions differ, and gate them
	dvc repro export/dvc.yaml

crossval: setup  ## Cross-validate the networks and the baselines, by item
	dvc repro crossval/dvc.yaml

pretrain: setup  ## Check the backbones in weights/ and rehearse distilling new ones (minutes)
	dvc repro pretrain/dvc.yaml

render: setup  ## Rerender the sample catalog if its renderer or params changed
	dvc repro data/sample/dvc.yaml

video: setup  ## Film the sample's items and compare fused clips with single frames (minutes)
	dvc repro video/dvc.yaml

realism: setup  ## Evaluate the trained models on Team 13's unseen photographs
	python benchmarks/realism.py

test: setup  ## Run all tests with one process per core, at most four
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

check: setup  ## Lint, check formatting and types
	ruff check .
	ruff format --check .
	mypy
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	check-jsonschema --check-metaschema docs/schema.json

lock-check: setup  ## Check that locks match code, params, data and the environment
	python tools/lock_check.py

certify: setup  ## Rerun the committed pipeline in a clean clone and environment; write report/certificate.*
	python benchmarks/certify.py

app: setup  ## Serve the web page at 127.0.0.1:7860
	vitrine serve

pictures: setup  ## Take the README's screenshots with the browser tests
	VITRINE_PROJECT=$(CURDIR) VITRINE_PICTURES=$(CURDIR)/docs/page_pictures python -m pytest -q tests/app/test_browser.py

plots: setup  ## Write DVC's plots to dvc_plots/plots.html, without network access; REVS="HEAD~1 HEAD" compares
	python tools/plots.py $(REVS)

diff: setup  ## Compare metrics and params with the last commit
	dvc metrics diff --md
	dvc params diff --md

readme: setup  ## Write README's tables from the last runs' scores
	python tools/readme_tables.py

REV ?= HEAD
gate: setup  ## Fail if a metric is worse than at the git revision REV, beyond noise
	vitrine gate $(REV)

bench: setup  ## Compare training steps, inference and indexing with plain loops
	python benchmarks/throughput.py
	python benchmarks/serving.py

kill-test: setup  ## Kill training at random moments; the final weights must be identical
	python benchmarks/kill_and_resume.py

scale-demo: setup  ## Index 20,000 photographs with Ray, kill it halfway, resume, and check (minutes)
	python benchmarks/scale_demo.py

faults: setup  ## Disturb index builds in the ways that long jobs fail; the results must be right (minutes)
	python benchmarks/faults.py

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18
