# make demo   installs everything and runs the whole road on made-up data (minutes on a laptop)
# make test   installs everything and runs every test
# make check  installs everything and says whether it works: versions, GPU, one step of every kind of model
PYTHON ?= python3
VENV   ?= .venv
RUN     = PATH="$(abspath $(VENV))/bin:$$PATH"

.PHONY: demo test check lint clean
demo: $(VENV)/.installed
	$(RUN) bash recipes/hpa.sh --demo

test: $(VENV)/.installed
	$(RUN) ruff check .
	$(RUN) python -m pytest -n auto --dist loadfile

check: $(VENV)/.installed
	$(RUN) python check.py

lint: $(VENV)/.installed
	$(RUN) ruff check .

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Podium needs Python 3.10 to 3.13, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12 ...") if not (3, 10) <= v < (3, 14) else None'
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf demo .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -exec rm -rf {} +
