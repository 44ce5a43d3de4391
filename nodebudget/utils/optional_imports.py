"""Imports of optional packages on first use; a missing one is an error that names the extra to install."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

from nodebudget.errors import MissingError, first_line

_EXTRAS = {
    "jarvis": ("jarvis-tools", "structures"),
    "vesin": ("vesin", "structures"),
    "pymatgen": ("pymatgen", "structures"),
    "alignn": ("alignn", "alignn"),
    "lmdb": ("lmdb", "alignn"),
    "psutil": ("psutil", "alignn"),
    "ase": ("ase", "structures"),
    "pyarrow": ("pyarrow", "parquet"),
    "distributed": ("distributed", "dask"),
    "matplotlib": ("matplotlib", "plot"),
    "jinja2": ("Jinja2", "report"),
    "markupsafe": ("MarkupSafe", "report"),
    "torch_geometric": ("torch-geometric", "pyg"),
    "lightning": ("lightning", "lightning"),
    "pytorch_lightning": ("pytorch-lightning", "lightning"),
    "transformers": ("transformers", "transformers"),
}

#: Modules of alignn that are plain PyTorch and import without DGL.
_ALIGNN_WITHOUT_DGL = ("alignn.torch_graph_builder", "alignn.models.alignn_atomwise_pure")

OLDEST_TORCH = 2  #: Major version of the oldest PyTorch whose training steps can be measured.


def require(module: str) -> Any:
    """Import a module, such as "jarvis.core.atoms"; raise a MissingError that names the extra to install."""
    root = module.partition(".")[0]
    if root == "dgl":
        load_dgl()
    if root == "alignn" and module not in _ALIGNN_WITHOUT_DGL:
        load_dgl()  # alignn swallows a broken DGL and fails much later
    package, extra = _EXTRAS.get(root, (root, "all"))
    if module in _ALIGNN_WITHOUT_DGL:
        extra = "alignn-pure"
    try:
        return _import(module)
    except ImportError as error:
        raise MissingError(
            f"{package} is needed for this and does not import: {first_line(error)}",
            hint=f"pip install 'nodebudget[{extra}]'",
        ) from error


def load_dgl() -> Any:
    """Import DGL with its PyTorch backend; raise a MissingError where it does not import with the installed torch."""
    choose_backend()
    try:
        return _import("dgl")
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        # DGL loads compiled libraries when it is imported: a mismatch shows as any of these.
        version, torch = installed("dgl"), installed("torch")
        if version is None:
            raise MissingError(
                "DGL is not installed",
                hint="pip install 'nodebudget[dgl]' -c constraints.txt (dgl 1.1.3 was tested with torch 2.13)",
            ) from error
        raise MissingError(
            f"DGL {version} does not import with torch {torch}: {first_line(error)}",
            limit="dgl 1.1.3 works with torch 2.13 on the CPU; "
            "dgl 2.1 and newer only with the torch that they were built for",
            hint="pip install dgl==1.1.3 packaging setuptools, or DGL's own CUDA wheel for your torch",
        ) from error


def check_dgl_on(device: str) -> None:
    """Raise a MissingError where DGL can't use a device such as "cuda:0"."""
    dgl = load_dgl()
    try:
        dgl.graph(([0], [0])).to(device)
    except Exception as error:  # DGL's error type can't be imported without DGL
        no_cuda = "is not enabled" in str(error)
        reason = "is built without CUDA" if no_cuda else f"can't use {device}: {first_line(error)}"
        raise MissingError(
            f"DGL {dgl.__version__} {reason}",
            hint="install DGL's own CUDA wheel for your torch; alignn trains without DGL too: --workload alignn-pure",
        ) from error


def choose_backend() -> None:
    """Set DGL's backend to PyTorch: otherwise its first import prints a notice and writes ~/.dgl/config.json."""
    os.environ.setdefault("DGLBACKEND", "pytorch")


def _import(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside other packages
        loaded = importlib.import_module(module)
    if "." not in module and getattr(loaded, "__file__", None) is None:
        # Python imports any folder beside the script as a package: a folder of data named lmdb, say.
        raise ImportError(f"{next(iter(loaded.__path__))!r} is a folder without code")
    return loaded


def check_torch() -> None:
    """Raise a MissingError over a PyTorch that is too old for measuring training steps."""
    version = installed("torch")
    if version is not None and int(version.partition(".")[0]) < OLDEST_TORCH:
        raise MissingError(
            f"torch {version} is too old", limit=f"torch {OLDEST_TORCH}.0 or newer", hint="install a newer torch"
        )


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
