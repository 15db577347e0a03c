#!/usr/bin/env bash
# Run geo3k-tiny on local, roles: judge, train.
# 'orchestrator submit' starts this in the background; by hand it runs in the foreground.
set -euo pipefail
umask 077
cd '/home/me/a checkout'
export PYTHONUNBUFFERED=1
export SCRATCH='/scratch/$USER'
exec /venv/bin/python -m orchestrator.allocation.supervisor --run-dir /runs/x
