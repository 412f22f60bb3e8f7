#!/bin/sh
# Ends with exit code 3 when a training step has surely become more than 3 % slower than a recording made before.
#
#   loraprof profile --record BASE.loraprof train.py ARGS      once, on the machine that runs the gate
#   sh ci_gate.sh BASE.loraprof train.py ARGS                  for every change
#
# As a step of a GitHub Actions job, the findings are annotations of the pull request.
set -eu
base=$1
shift
loraprof profile --quiet --format github --record new.loraprof --force -o profile.txt "$@"
loraprof compare "$base" new.loraprof --format github --fail-on 'slower>3%'
