#!/usr/bin/env bash
# The small part of the compatibility matrix: core alone in an environment of its own. Arguments go to nox:
# 'bash scripts/compat.sh --list' names all sessions, 'bash scripts/compat.sh' with '-s NAME' runs another one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install all test dev
[ $# -gt 0 ] || set -- --session core
exec "$venv/bin/python" -m nox "$@"
