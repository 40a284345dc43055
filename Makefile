# make site user=jdoe                    set up what is missing, then give jdoe a tracker, train and verify
# make verify user=jdoe                  look at it again, from outside
# make destroy user=jdoe confirm=jdoe    remove everything of jdoe
# make test                              what a change has to pass, ten minutes; part=NAME for a part of it
# make test-all                          everything, for hours; part=NAME for a part of it
# make lint | unit | molecule            the two quickest parts; the hosts with systemd, scenario=NAME
# make lock                              renew the lock files from requirements/*.in

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev site verify destroy test test-all lint unit molecule lock

# Passed on to ansible-playbook, for example args='-e mlflow_server_port=5001'
args ?=
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# A login may bring a language that the machine does not have, and Ansible would stop.
export LC_ALL := C.UTF-8
# Where this is set, Ansible and MLflow are compiled anew at each of their many starts.
unexport PYTHONDONTWRITEBYTECODE
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

# What each part is, and what it needs: tools/tests list. exec, so that an end of make reaches the tests themselves.
test: setup-dev
	@exec .venv-dev/bin/python tools/tests gate $$part

test-all: setup-dev
	@exec .venv-dev/bin/python tools/tests all $$part

lint: setup-dev
	@tools/lint

unit: setup-dev
	@.venv-dev/bin/python -m pytest -q tests/unit

# Hosts in containers where systemd is the first process; scenario=NAME for one of them.
molecule: setup-dev
	@exec tools/molecule $$scenario

lock: setup
	@tools/lock
