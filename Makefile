# Each target is one command; what it does is in tools/. See the README.
# The Python that .venv was made with, or python3 for a new one.
PYTHON ?= $(shell [ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
CONSTRAINTS ?= constraints.txt
VENV := .venv/bin/python
# How many files the tests run at a time.
JOBS ?= 2
SHARED := -n $(JOBS) --dist loadfile
JAX_CHAPTERS ?= $(foreach n,01 02 03 04 06 07,$(wildcard notebooks/$(n)_*.ipynb))

DEVELOPERS := --also requirements-dev.txt

.PHONY: run test jax lab lint sync refresh site figures faults weights bench speed environment \
	developers
run: environment      ## execute the chapters (CHAPTER=01 for one) and make the pages under output/
	@$(VENV) -m tools.run $(CHAPTER)
test: environment     ## tests of utils and tools, and every chapter in the quick profile, JOBS files at a time
	@$(VENV) -m pytest $(SHARED) $(ARGS)
jax:                  ## the chapters that need no TensorFlow on JAX, quick profile, in an environment of their own
	@$(PYTHON) tools/environment.py --constraints requirements.txt --folder .venv-jax --gigabytes 2 \
		--requirements requirements-jax.txt
	@KERAS_BACKEND=jax .venv-jax/bin/python -m pytest $(SHARED) $(JAX_CHAPTERS)
	@KERAS_BACKEND=jax .venv-jax/bin/python -m pytest -m devices tests/test_devices.py
lab: environment      ## open chapter 1 in JupyterLab
	@$(VENV) -m jupyterlab notebooks/01_autoencoder.ipynb
lint: developers      ## ruff, valid notebooks, outputs and texts that belong to the code
	@$(VENV) -m ruff check . && $(VENV) -m ruff format --check . && $(VENV) -m tools.lint
sync: developers      ## texts of notebooks/sources/ into the notebooks, outputs stay (BACK=1: the other way)
	@$(VENV) -m tools.sync $(if $(BACK),--back) $(CHAPTER)
refresh: developers   ## the same, then execute the chapters in place, full profile, and store their outputs
	@$(VENV) -m tools.sync $(CHAPTER) && $(VENV) -m tools.refresh $(CHAPTER)
site: environment     ## the site of the stored notebooks, in output/site; nothing is executed
	@$(VENV) -m tools.site
figures: developers   ## drawings from SVG to PNG, by Chromium (FIGURE=coupling for one)
	@$(VENV) -m tools.figures $(FIGURE)
faults: developers    ## plants faults in the code and counts those that the tests find (COUNT=60 SEED=30)
	@$(VENV) -m tools.faults --count $(or $(COUNT),60) --seed $(or $(SEED),30)
weights: environment  ## trains the weights of a chapter on that ship, such as CHAPTER=03 MINUTES=60
	@$(VENV) -m tools.weights $(CHAPTER) $(MINUTES)
bench: environment    ## measures rows for the leaderboard and the benchmark (PART=moons|book|peers|ladders|images, QUICK=1)
	@$(if $(filter peers,$(or $(PART),peers)),$(PYTHON) tools/environment.py --constraints "" \
		--folder .venv-benchmarks --gigabytes 8 --requirements benchmarks/requirements.txt)
	@$(VENV) -m benchmarks.run
speed: environment    ## a minute that compares this machine with the one of the course's minutes
	@$(VENV) -m tools.speed
environment:
	@$(PYTHON) tools/environment.py --constraints "$(CONSTRAINTS)"
developers:
	@$(PYTHON) tools/environment.py --constraints "$(CONSTRAINTS)" $(DEVELOPERS)
