#!/usr/bin/env bash
# Sets up and runs: makes .venv, installs, then learns the handwritten digits task by task with four methods
# and compares what each forgot. Arguments go to the sweep:  scripts/quickstart.sh run.output=elsewhere
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment

exec .venv/bin/clrft sweep quickstart "$@"
