"""What the tests of single extras share: what an environment has, commands, and a few crystals."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodebudget import SizeTable
from nodebudget.cli import main

#: Extras that an environment was made with, which must therefore be tested: NODEBUDGET_EXTRAS="dgl plot".
PROMISED = os.environ.get("NODEBUDGET_EXTRAS", "").split()


def is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def need(extra: str, *modules: str) -> None:
    """Skip a file of tests where its extra is not installed; fail where it should be."""
    absent = [module for module in modules if not is_there(module)]
    if absent and extra in PROMISED:
        raise RuntimeError(f"the extra {extra!r} is installed, and {', '.join(absent)} is not there")
    if absent:
        pytest.skip(f"nodebudget[{extra}] is not installed ({', '.join(absent)})", allow_module_level=True)


def call(*arguments: object) -> int:
    """Run a command in this process and return its exit code."""
    with warnings.catch_warnings():
        # What other packages warn of is not what is tested here.
        warnings.simplefilter("ignore")
        return main.main([str(argument) for argument in arguments], "nodebudget", standalone_mode=False) or 0


def some_sizes(graphs: int = 200) -> SizeTable:
    nodes = np.random.default_rng(0).integers(2, 40, graphs)
    return SizeTable.from_counts(nodes, nodes * 12, nodes * 144)


def some_crystals(count: int = 6) -> list[dict[str, Any]]:
    """Cubic cells of one to three atoms, as JARVIS has them."""
    return [crystal(number, 1 + number % 3) for number in range(count)]


def crystal(number: int, atoms: int) -> dict[str, Any]:
    return {
        "jid": f"cubic-{number}",
        "target": float(number),
        "atoms": {
            "lattice_mat": (np.eye(3) * 4.0).tolist(),
            "coords": [[0.3 * i, 0.31 * i, 0.29 * i] for i in range(atoms)],
            "elements": ["Si", "O", "Si"][:atoms],
            "cartesian": False,
            "props": [""] * atoms,
        },
    }


def write_crystals(folder: Path, count: int = 6) -> Path:
    path = folder / "crystals.json"
    path.write_text(json.dumps(some_crystals(count)))
    return path
