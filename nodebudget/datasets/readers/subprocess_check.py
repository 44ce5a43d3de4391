"""What a compiled library says of a file that could end its process: asked for in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Modules come from where this process has them: Python would look first in the current folder, where data may lie.
HEAD = "import sys\nsys.path[:] = sys.argv[2:]\n"


def ask(code: str, path: Path) -> str:
    """Run code, with the file in `sys.argv[1]`, and return what it printed.

    Raises:
        ValueError: It failed, or its process ended; says why.
    """
    command = [sys.executable, "-W", "ignore", "-c", HEAD + code, str(path), *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # What the C++ runtime says of an abort; else the last line of a traceback.
    aborted = [line for line in said if line.startswith("what():")]
    raised = [line for line in said if "Error: " in line]
    raise ValueError((aborted or raised or said or [f"its reader ended with {done.returncode}"])[-1])
