#!/usr/bin/env bash
# The whole way on real crystals: sets up .venv, then runs 'nodebudget quickstart' with the arguments given.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install all
exec "$venv/bin/nodebudget" quickstart "$@"
