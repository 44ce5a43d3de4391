#!/usr/bin/env bash
# Tests that need a CUDA device; arguments go to pytest. Sets up .venv-cuda with a CUDA build of PyTorch (about
# 6 GB). Runs on the machine's GPU, or, where there is none, on a stand-in device that allocates and computes
# nothing: STUBCUDA names its launcher, which sets STUBCUDA_BYTES of memory. '-m cuda' runs the long ones too.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The tested set, with PyTorch's CUDA build in place of the other one.
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
cat <(grep -v '^torch==' "$root/constraints.txt") "$root/constraints-cuda.txt" >"$pins"
VENV=${VENV:-$root/.venv-cuda}
CONSTRAINTS=$pins
source "$root/scripts/setup.sh"
install all test

launcher=${STUBCUDA:-$root/../shared/stubcuda/stubcuda}
run=("$venv/bin/python")
parallel=()
if ! "${run[@]}" -W ignore -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  if [ ! -x "$launcher" ]; then
    echo "no CUDA device, and no stand-in at $launcher (set STUBCUDA to its launcher)" >&2
    exit 3
  fi
  # Each process has a stand-in of its own; a real GPU is shared, so tests take turns there.
  run=("$launcher" "${run[@]}")
  parallel=(-n auto --dist loadfile)
fi
"${run[@]}" -m pytest -m "cuda and not slow" "${parallel[@]}" tests/cuda "$@"
