"""A first look at a file by a compiled library that could end its process: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Modules come from where this process has them: Python would look first in the current folder, where data may lie.
HEAD = "import sys\nsys.path[:] = sys.argv[2:]\n"


def run_check(code: str, path: Path) -> str:
    """Run code, with the file in `sys.argv[1]`, and return what it printed.

    Raises:
        ValueError: It failed, or its process ended; with the reason.
    """
    command = [sys.executable, "-W", "ignore", "-c", HEAD + code, str(path), *sys.path]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        return process.stdout
    lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
    # What the C++ runtime prints of an abort; else the last line of a traceback.
    aborted = [line for line in lines if line.startswith("what():")]
    raised = [line for line in lines if "Error: " in line]
    raise ValueError((aborted or raised or lines or [f"its reader ended with {process.returncode}"])[-1])
