"""Print the batches of other projects' samplers as JSON; runs in an environment where they are installed.

    python ddp_peers.py SITE [SITE …] < request.json

Each SITE is a folder with installed packages: fairchem-core (`MaxAtomDistributedBatchSampler`, `BalancedBatchSampler`)
and metatrain (`MaxAtomDistributedBatchSampler`). Only the files of the samplers are imported, without the packages
around them. The request: `nodes` (atoms of each crystal), `ranks`, `batch` (crystals per rank and step), `steps`,
`epochs`.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed
import torch.multiprocessing
from torch.utils.data import Dataset

Epochs = list[list[list[list[int]]]]  # epoch → rank → batch → crystal


class Atoms(Dataset[int]):
    """What the samplers ask a dataset for."""

    def __init__(self, nodes: list[int]) -> None:
        self.nodes = nodes

    def __len__(self) -> int:
        return len(self.nodes)

    def get_metadata(self, name: str, places: Any) -> list[int]:
        return [self.nodes[place] for place in places]

    def metadata_hasattr(self, name: str) -> bool:
        return name == "natoms"

    def get_num_atoms(self, place: int) -> int:
        return self.nodes[place]


def module(site: Path, name: str) -> Any:
    """Import a file of a package without running the package's `__init__`."""
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] in ("fairchem", "metatrain")]:
        del sys.modules[loaded]
    parts = name.split(".")
    for depth in range(1, len(parts)):
        package = types.ModuleType(".".join(parts[:depth]))
        package.__path__ = [str(site.joinpath(*parts[:depth]))]
        sys.modules[package.__name__] = package
    if name.startswith("fairchem.core.common"):
        # Of the readers of datasets only an exception is needed.
        datasets, base = (
            types.ModuleType("fairchem.core.datasets"),
            types.ModuleType("fairchem.core.datasets.base_dataset"),
        )
        datasets.data_list_collater = None
        base.UnsupportedDatasetError = type("UnsupportedDatasetError", (ValueError,), {})
        sys.modules |= {datasets.__name__: datasets, base.__name__: base}
    return importlib.import_module(name)


def fewest_atoms(make: Callable[[int], int], steps: int, low: int, high: int) -> int:
    """Return the smallest maximum of atoms with which a sampler has no more than so many steps."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if make(middle) <= steps else (middle + 1, high)
    return low


def max_atoms(sampler: Any, request: dict[str, Any], **options: Any) -> Epochs:
    """Batches of a `MaxAtomDistributedBatchSampler`."""
    data, ranks = Atoms(request["nodes"]), request["ranks"]
    top = 2 * sum(data.nodes) // (request["steps"] * ranks) + max(data.nodes)
    made: Callable[..., Any] = lambda atoms, rank=0: sampler(data, atoms, num_replicas=ranks, rank=rank, **options)  # noqa: E731
    atoms = fewest_atoms(lambda maximum: len(list(made(maximum))), request["steps"], max(data.nodes), top)
    epochs: Epochs = []
    for epoch in range(request["epochs"]):
        samplers = [made(atoms, rank) for rank in range(ranks)]
        for of_rank in samplers:
            of_rank.set_epoch(epoch) if hasattr(of_rank, "set_epoch") else of_rank.set_epoch_and_start_iteration(
                epoch, 0
            )
        epochs.append([[list(map(int, batch)) for batch in of_rank] for of_rank in samplers])
    return epochs


def balanced_rank(rank: int, site: str, request: dict[str, Any], folder: str) -> None:
    """One rank of a `BalancedBatchSampler`, which exchanges the crystals of each step."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=request["ranks"]
    )
    sampler = module(Path(site), "fairchem.core.common.data_parallel").BalancedBatchSampler(
        Atoms(request["nodes"]), batch_size=request["batch"], num_replicas=request["ranks"], rank=rank, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    epochs = []
    for epoch in range(request["epochs"]):
        sampler.set_epoch(epoch)
        epochs.append([[int(place) for place in batch] for batch in sampler])
    Path(folder, f"{rank}.json").write_text(json.dumps(epochs))
    torch.distributed.destroy_process_group()


def balanced(site: Path, request: dict[str, Any]) -> Epochs:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(balanced_rank, (str(site), request, folder), nprocs=request["ranks"])
        of_ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(request["ranks"])]
    return [list(ranks) for ranks in zip(*of_ranks, strict=True)]


def main() -> None:
    request = json.load(sys.stdin)
    found: dict[str, Epochs] = {}
    for site in map(Path, sys.argv[1:]):
        if (site / "fairchem/core/datasets/samplers").is_dir():
            file = module(site, "fairchem.core.datasets.samplers.max_atom_distributed_sampler")
            found["fairchem MaxAtomDistributedBatchSampler"] = max_atoms(
                file.MaxAtomDistributedBatchSampler, request, seed=0
            )
        if (site / "fairchem/core/common/data_parallel.py").is_file():
            found["fairchem BalancedBatchSampler"] = balanced(site, request)
        if (site / "metatrain/utils/data/samplers.py").is_file():
            file = module(site, "metatrain.utils.data.samplers")
            found["metatrain MaxAtomDistributedBatchSampler"] = max_atoms(file.MaxAtomDistributedBatchSampler, request)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
