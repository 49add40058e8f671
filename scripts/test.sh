#!/usr/bin/env bash
# Sets up and tests: makes .venv, installs, then style, types, documentation and tests. Needs no GPU; the tests need no
# network. Arguments go to pytest:  scripts/test.sh tests/eval -k matrix
# With --cov the tests print their coverage, and take up to 1.8 times as long.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment test

export HF_HUB_OFFLINE=1
echo "style"
.venv/bin/ruff check
.venv/bin/ruff format --check
echo "types"
.venv/bin/mypy
echo "documentation"
scripts/docs.sh
echo "tests"
.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder "$@"  # else the few long ones are last, on one core
