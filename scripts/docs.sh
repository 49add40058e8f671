#!/usr/bin/env bash
# Builds the documentation site into build/site; a broken link or a missing docstring target is an error.
# The environment comes from scripts/test.sh (or: .venv/bin/pip install -c constraints.txt -e '.[test]').
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rm -rf build/docs build/site
mkdir -p build/docs
cp ./*.md LICENSE CITATION.cff build/docs/
cp -r --parents docs examples scripts benchmarks/results build/docs/
"${PYTHON:-.venv/bin/python}" -m zensical build --strict --clean --config-file mkdocs.yml
