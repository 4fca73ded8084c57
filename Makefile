# make run: start the MTA on its embedded default; make test: run the whole test suite.
PYTHON ?= python3
VENV := .venv
# For example: make run ARGS="--config mta.toml", make test ARGS="tests/smtp -x"
ARGS ?=
# A file stays with one process, for what its tests share. ARGS="-n0" runs all in one, which --pdb and -s need.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test clean

run: $(VENV)/.installed
	@exec $(VENV)/bin/twistd -n --pidfile= requiretls-mta $(ARGS)

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest $(PARALLEL) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis _trial_temp*

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# Again only when what is to be installed has changed; the code itself is used where it lies.
$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed
