#!/usr/bin/env bash
# Sets up .venv with what tests need, then runs the test suite with the arguments given.
set -euo pipefail
# Lets Python keep what it compiles: without, each of the many processes compiles PyTorch again.
unset PYTHONDONTWRITEBYTECODE
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install all test
# One process a core; what one file sets up stays in one process.
exec "$venv/bin/python" -m pytest -n auto --dist loadfile "$@"
