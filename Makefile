# make bench   set up, then the main job: serve a real model with vLLM and measure it
# make test    set up, then lint, types and all tests
# make check   set up, then lint and types
# make setup   .venv with what this machine can run; ENGINE=cpu|cuda|none overrides what is found
# make fuzz    a million inputs each through the stream, the HTTP parser and the readers of traces; COUNT=n
# make benchmark  how fast and how true the client is; BMP_TOOLS=folder of mock_server.c and limit_client.c
# make compare-peers   ours beside guidellm, aiperf, vllm bench serve and others, into docs/results/peers.md; ARGS=--quick
# make lock    resolve requirements/cpu.lock anew; UPGRADE=1 takes the newest versions
# make clean   remove .venv and what tools left behind; never runs/

SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python

# What was set up last stays, unless asked for otherwise.
ENGINE ?= $(or $(patsubst .venv/.setup-%,%,$(wildcard .venv/.setup-*)),auto)
STAMP := .venv/.setup-$(ENGINE)
ARGS ?=
COUNT ?= 1000000

.PHONY: help bench test check fuzz setup benchmark compare-peers lock clean

help:
	@sed -n 's/^# //p' Makefile | head -9

setup: $(STAMP)

$(STAMP): pyproject.toml requirements/cpu.lock requirements/apart.txt scripts/setup.sh hatch_build.py $(wildcard engines/http/*.[ch] bytemlperf_llm/*.c)
	@PYTHON="$(PYTHON)" scripts/setup.sh "$(ENGINE)"

bench: setup
	.venv/bin/bmp-llm serve-bench --engine vllm --scenario chat $(ARGS)

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: check
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

fuzz: setup
	$(PY) -m tests.fuzz.fuzz_sse --count $(COUNT)
	$(PY) -m tests.fuzz.fuzz_http --count $(COUNT)
	$(PY) -m tests.fuzz.fuzz_traces --count $(COUNT)

benchmark: setup
	$(PY) benchmarks/reference_rate.py --quick
	$(PY) benchmarks/startup.py
	$(PY) benchmarks/cpu_per_token.py --quick
	$(PY) benchmarks/truth_under_load.py --seconds 4

compare-peers: setup
	$(PY) -m benchmarks.peers $(ARGS)

lock: setup
	$(PY) scripts/lock.py $(if $(UPGRADE),--upgrade)

clean:
	rm -rf .venv .setup build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
