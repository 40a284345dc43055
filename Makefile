# make site user=jdoe                    set up what is missing, then give jdoe a tracker, train and verify
# make verify user=jdoe                  look at it again, from outside
# make destroy user=jdoe confirm=jdoe    remove everything of jdoe
# make test                              set up what tests need, then run everything that CI runs
# make lint | unit | e2e | bare | molecule    parts of it
# make lock                              renew the lock files from requirements/*.in

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev site verify destroy test lint unit e2e bare molecule lock

# Passed on to ansible-playbook, for example args='-e mlflow_server_port=5001'
args ?=
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# A login may bring a language that the machine does not have, and Ansible would stop.
export LC_ALL := C.UTF-8
# Values given on make's command line reach the shell through its environment, never as program text.
play = .venv/bin/ansible-playbook $(if $(inventory),-i "$$inventory")
who = $(if $(user),-e "user=$$user")

help:
	@sed -n '/^# make/s/^# //p' Makefile

setup:
	@tools/setup controller .venv

setup-dev: setup
	@tools/setup dev .venv-dev

site: setup
	@$(play) site.yml $(who) $(args)

verify: setup
	@$(play) playbooks/verify.yml $(who) $(args)

destroy: setup
	@$(play) playbooks/destroy.yml $(who) $(if $(confirm),-e "confirm=$$confirm") $(args)

# The longest first, for make --jobs=2.
test: molecule lint unit e2e bare

lint: setup-dev
	@tools/lint

unit: setup-dev
	@.venv-dev/bin/python -m pytest -q tests/unit

e2e: setup-dev
	@.venv-dev/bin/python -m pytest -q tests/e2e

# A Debian with nothing installed, entered by chroot: only root can.
bare: setup-dev
	@.venv-dev/bin/python -m pytest -q tests/bare

# Hosts in containers where systemd is the first process; scenario=NAME for one of them.
molecule: setup-dev
	@tools/molecule $(scenario)

lock: setup
	@tools/lock
