# SPDX-License-Identifier: Apache-2.0
#
# Every target first installs what it needs (tools/setup.sh); a second run is quick.
# As root, on Debian 12.

BIN := .venv/bin
PACKAGES := snapshot_core ipa_snapshot conductor_client
PYTHON_TREES := $(PACKAGES) bench tests docs/conf.py setup.py integrations/nova integrations/tempest

.PHONY: audit bench demo test test-integrations test-ironic test-lowest test-machine \
    test-oldest lint docs ramdisk unit setup

# One more than there are cores, since some wait; each file's tests share what they have started. As they are
# named, and not the files with the most tests first: those are the quickest.
AT_ONCE := -n 3 --dist loadfile --no-loadscope-reorder

# The tests in which an Ironic takes part, and those in which an Ironic or an agent does.
IRONIC_TESTS := $(wildcard tests/functional/test_conductor_plugin*.py) \
    $(patsubst %,tests/functional/test_%.py,ironic_lab limits node_failures node_plugin \
        node_snapshot operators_guide states two_conductors)
# Those of what integrations/ has, and with a Keystone.
INTEGRATION_TESTS := $(patsubst %,tests/functional/test_%.py,keystone tempest verb)
OLDEST_TESTS := $(patsubst %,tests/functional/test_%.py,ironic_lab service_step node_snapshot \
    node_failures node_reap states conductor_plugin whole_way)

demo: setup                 ## take a snapshot of a disk image, through a real agent
	$(BIN)/python -m tests.lab.demo

test: setup lint docs       ## all that can be checked without an Ironic and a machine
	tools/setup.sh glance
	$(BIN)/python -m pytest -q $(AT_ONCE) tests/functional tests/unit \
	    $(patsubst %,--ignore=%,$(IRONIC_TESTS) $(INTEGRATION_TESTS))

test-ironic: setup          ## snapshots through a real Ironic, and its conductor's plug-in
	tools/setup.sh glance ironic
	$(BIN)/python -m pytest -q $(AT_ONCE) $(IRONIC_TESTS)

test-integrations: setup    ## with Keystone, Nova, tempest, and an Ironic that has the specification's own verb
	tools/setup.sh glance keystone ironic ironic-snapshot nova tempest
	$(BIN)/python -m pytest -q $(AT_ONCE) $(INTEGRATION_TESTS)
	cd integrations/nova && ../../.venv-nova/bin/python -m pytest -q
	integrations/ironic/unit-tests .venv-ironic-snapshot

test-oldest: setup          ## those with an Ironic or an agent, on the oldest pair
	tools/setup.sh glance oldest
	LAB_RELEASES=oldest $(BIN)/python -m pytest -q $(AT_ONCE) $(OLDEST_TESTS)

# Without those that import the agent, whose own requirements are higher.
test-lowest: setup          ## the unit tests with the lower bounds of what is required
	tools/setup.sh lowest
	.venv-lowest/bin/python -m pytest -q $(AT_ONCE) tests/unit \
	    --ignore=tests/unit/ipa_snapshot/extension \
	    --ignore=tests/unit/ipa_snapshot/devices/test_root_device.py

ramdisk: setup              ## the agent's ramdisk with the element, into .cache/ramdisk
	tools/ramdisk.sh

test-machine: ramdisk       ## boot it, and what is restored, in emulated machines
	tools/setup.sh glance ironic ganesha
	$(BIN)/python -m tests.machine.debian_root
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/machine

bench: setup                ## measure the writers against each other; takes an hour or two
	$(BIN)/python -m bench.compare --json .cache/bench.json

unit: setup                 ## the tests that need no servers
	$(BIN)/python -m pytest -q $(AT_ONCE) tests/unit

lint: setup
	$(BIN)/ruff check $(PYTHON_TREES)
	$(BIN)/ruff format --check $(PYTHON_TREES)
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/bandit -q -c pyproject.toml -r $(PACKAGES)
	$(BIN)/reno -q lint
	$(BIN)/bashate -i E005,E006 tools/*.sh $$(grep -rlE "^#!/bin/bash" dib-elements tests/machine/elements integrations)

audit: setup                ## known vulnerabilities of what the tests run with; needs the network
	$(BIN)/pip freeze --exclude-editable > .cache/audited.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r .cache/audited.txt

docs: setup                 ## the documentation, into docs/_build/html
	$(BIN)/sphinx-build -q -W -b html docs docs/_build/html

setup:
	tools/setup.sh
