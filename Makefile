# make study [STUDY=quick] [CORES=all]   run a study to figures/<study>/report.html
# make study DATA=my.csv [TEXT= LABEL=] a study of your own file [NAME= MINUTES=30 MODEL=135m]
# make study PROFILE=slurm [MACHINE=...] the same as batch jobs: docs/cluster.md
# make answer                           compare finished studies of params/answer over their tasks
# make data [SETS="name ..."]            the public data sets of data/sources.yaml (DATA_MIRROR: a copy)
# make models [MODELS="name ..."]        larger models of models/sources.yaml
# make bench | scaling                  our speed against the usual recipes, and as things grow
# make readme                           tables in README.md, docs/, data/ and figures/README.md
# make lock                             requirements.lock, with hashes, from requirements.txt
# make audit                            known vulnerabilities of the packages; runs/sbom.json lists them
# make survive [KILLS=4]                studies killed five times each; do they recover unaided?
# make browser                          reports in Chromium: requests, accessibility, narrow screens
# make test | lint | lab | install | clean
STUDY ?= quick
PARAMS ?= params
CORES ?= all
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Batch jobs, where there is a PROFILE, take what was planned; else runs share this machine.
JOBS := runs/$(STUDY)/jobs.csv
WHERE := $(if $(PROFILE),--profile profiles/$(PROFILE),--cores $(CORES) --resources gpu=1)

COG := cog -P -I docs -p "import tables" --verbosity=1

.PHONY: study answer data models test browser survive bench scaling readme lint lock audit lab install clean
study: $(READY)
ifdef DATA
	@study=$$(python -m lib new "$$DATA" $(if $(TEXT),--text "$$TEXT") $(if $(LABEL),--label "$$LABEL") \
		$(if $(NAME),--name "$$NAME") $(if $(MINUTES),--minutes $(MINUTES)) $(if $(MODEL),--model $(MODEL))) \
		&& exec $(MAKE) --no-print-directory study DATA= STUDY="$$study"
else
ifdef PROFILE
	pip install --quiet --no-deps --requirement profiles/$(PROFILE)/requirements.txt
	python data/prepare.py --of $(PARAMS)/$(STUDY)
	python -m lib plan $(PARAMS)/$(STUDY) $(if $(MACHINE),--machine $(MACHINE)) --jobs $(JOBS)
endif
	python -m lib.supervise runs/$(STUDY) snakemake $(WHERE) \
		--config study=$(STUDY) params_dir=$(PARAMS) $(if $(PROFILE),jobs=$(JOBS)) \
		--rerun-triggers mtime --max-checksum-file-size 0 --nolock --rerun-incomplete $(ARGS)
endif

answer: $(READY)
	mkdir -p runs/answer
	papermill notebooks/06_answer.ipynb runs/answer/06_answer.ipynb -r study answer
	jupyter nbconvert --to lib.page.ReportExporter runs/answer/06_answer.ipynb \
		--output-dir figures/answer --output report

data: $(READY)
	python data/prepare.py $(SETS)

models: $(READY)
	python models/prepare.py $(MODELS)

test: $(READY)
	pytest --numprocesses 2 --dist loadfile $(ARGS)

browser: $(READY)
	pip install --quiet --no-deps --requirement tests/browser/requirements.txt
	pytest -s -rs -m browser tests/browser $(ARGS)

survive: $(READY)
	KILLS=$(or $(KILLS),4) pytest -s -m reliability tests/reliability $(ARGS)

bench: $(READY)
	pip install --quiet --requirement tests/benchmarks/requirements.txt
	python data/prepare.py patents_ipc
	python tests/benchmarks/bench.py

scaling: $(READY)
	python tests/benchmarks/scaling.py

readme: $(READY)
	$(COG) -r README.md docs/*.md figures/README.md data/README.md

lint: $(READY)
	ruff check .
	ruff format --check .
	lint-imports --no-logo
	bandit --quiet --recursive --configfile pyproject.toml lib data models docs .ci
	$(COG) --check --check-fail-msg="run make readme" README.md docs/*.md figures/README.md data/README.md

lock: $(READY)
	python .ci/lock.py

audit: $(READY)
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --requirement .ci/audit.txt
	mkdir -p runs
	.venv/audit/bin/cyclonedx-py environment .venv --output-reproducible --output-file runs/sbom.json
	.venv/audit/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip

lab: $(READY)
	jupyter lab notebooks

install: $(READY)

# Done again only when a requirement changes. Every file is checked against its SHA-256, but
# torch: the machine decides which build of it is installed, and the libraries that it needs.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet $$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.txt)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv .snakemake runs
