#!/usr/bin/env bash
# Licences of the pinned packages, and their known vulnerabilities where the service that knows them can be asked.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install all test dev
"$venv/bin/python" scripts/licenses.py constraints.txt
if [ -x .venv-cuda/bin/python ]; then
  .venv-cuda/bin/python scripts/licenses.py constraints-cuda.txt
fi
"$venv/bin/python" scripts/audit.py constraints.txt
