#!/usr/bin/env bash
# The first minutes on a GPU: one command that checks, times and profiles, and stops at no failure. See --help.
cd "$(dirname "$0")/.." && exec "${GPU_PYTHON:-python3}" bench/gpu/trial.py "$@"
