"""The one place where heavy packages are imported, each on first use, with a clear word when it can't be."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

from nodebudget.errors import MissingError

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

#: What of alignn is plain PyTorch and works where there is no DGL.
_ALIGNN_WITHOUT_DGL = ("alignn.torch_graph_builder", "alignn.models.alignn_atomwise_pure")

#: The first number of the oldest PyTorch whose training steps can be measured.
OLDEST_TORCH = 2


def require(module: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Dotted name, such as "jarvis.core.atoms".

    Raises:
        MissingError: The package is not installed or does not import; says which extra brings it.
    """
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
            f"{package} is needed for this and does not import: {_one_line(error)}",
            hint=f"pip install 'nodebudget[{extra}]'",
        ) from error


def load_dgl() -> Any:
    """Import DGL with its PyTorch backend.

    Raises:
        MissingError: DGL is not there, or does not fit the installed torch.
    """
    choose_backend()
    try:
        return _import("dgl")
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        # DGL loads compiled parts at import: a misfit shows as any of these.
        found, torch = installed("dgl"), installed("torch")
        if found is None:
            raise MissingError(
                "DGL is not installed",
                hint="pip install 'nodebudget[dgl]' -c constraints.txt (dgl 1.1.3 was tested with torch 2.13)",
            ) from error
        raise MissingError(
            f"DGL {found} does not import with torch {torch}: {_one_line(error)}",
            limit="dgl 1.1.3 works with torch 2.13 on the CPU; "
            "dgl 2.1 and newer only with the torch that they were built for",
            hint="pip install dgl==1.1.3 packaging setuptools, or DGL's own CUDA wheel for your torch",
        ) from error


def check_dgl_on(device: str) -> None:
    """Refuse a DGL that can't put a graph on a device.

    Args:
        device: Such as "cuda:0".

    Raises:
        MissingError: DGL is not there, is built without CUDA, or can't use the device.
    """
    dgl = load_dgl()
    try:
        dgl.graph(([0], [0])).to(device)
    except Exception as error:  # DGL's own error type is where DGL is
        without = "is not enabled" in str(error)
        wrong = "is built without CUDA" if without else f"puts no graph on {device}: {_one_line(error)}"
        raise MissingError(
            f"DGL {dgl.__version__} {wrong}",
            hint="install DGL's own CUDA wheel for your torch; alignn trains without DGL too: --workload alignn-pure",
        ) from error


def choose_backend() -> None:
    """Have DGL use PyTorch, wherever it is first imported.

    Without it DGL's first import prints a notice and writes ~/.dgl/config.json.
    """
    os.environ.setdefault("DGLBACKEND", "pytorch")


def _import(module: str) -> Any:
    with warnings.catch_warnings():
        # Deprecations inside other packages are not the user's to mend.
        warnings.simplefilter("ignore")
        found = importlib.import_module(module)
    if "." not in module and getattr(found, "__file__", None) is None:
        # Python takes a folder of data beside the script for a package: one named lmdb, say.
        raise ImportError(f"{next(iter(found.__path__))!r} is a folder without code")
    return found


def check_torch() -> None:
    """Refuse a PyTorch that is too old for measuring training steps.

    Raises:
        MissingError: It is.
    """
    found = installed("torch")
    if found is not None and int(found.partition(".")[0]) < OLDEST_TORCH:
        raise MissingError(
            f"torch {found} is too old", limit=f"torch {OLDEST_TORCH}.0 or newer", hint="install a newer torch"
        )


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
