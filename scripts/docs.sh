#!/usr/bin/env bash
# Builds the documentation into docs/_build: every warning is an error, and nothing is fetched.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install all docs
rm -rf docs/_build
export DGLBACKEND=pytorch
"$venv/bin/python" -m sphinx -W --keep-going -n -q -b html docs docs/_build
echo "documentation in docs/_build/index.html"
