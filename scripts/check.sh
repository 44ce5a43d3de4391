#!/usr/bin/env bash
# Lint, format and types.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install all test dev
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
