# Two commands do everything: `make demo` and `make test`. Both create the environment on their first run.
PYTHON ?= python3
VENV   ?= .venv
READY   = $(VENV)/.ready
RUN     = $(VENV)/bin/python

.PHONY: demo test check docs peers conformance bench lock clean

demo: $(READY)      ## the main job: how far back does the gradient reach?
	$(RUN) experiments/vanishing_gradients.py --out runs/vanishing_gradients/demo --overwrite

test: $(READY)      ## every test: laws, oracles, doctests, scripts
	$(RUN) -m pytest

check: $(READY)     ## style and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/basedpyright

docs: $(READY)      ## the site, into docs/_build/html: every page is executed, and a warning is an error
	$(RUN) -m sphinx -j auto -b html -W --keep-going -q docs docs/_build/html

peers: $(READY)     ## the outside libraries that cells are compared with; without them their tests are skipped
	$(RUN) -m pip install --quiet "keras>=3.10" "torch==2.13.0" "dm-haiku>=0.0.17" "equinox>=0.13"

conformance: peers  ## docs/conformance.md: the numbers of other libraries against ours, stored and live
	$(RUN) -m tests.conformance

bench: $(READY)     ## every benchmark, on whatever device jax finds
	$(RUN) -m benchmarks.all

lock:               ## renew requirements.lock (needs uv; PYTHON must be a real interpreter, not a shim)
	uv pip compile pyproject.toml --extra test --extra data --extra onnx --extra check --extra build --extra docs --universal --generate-hashes --no-header \
	    --no-emit-index-url --python-version 3.11 --python $(PYTHON) -o requirements.lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV)
