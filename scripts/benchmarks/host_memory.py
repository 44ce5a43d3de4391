"""What graphs take on disk and in host memory, beside what is computed from their counted sizes.

    python scripts/benchmarks/host_memory.py [--every 1] [--copies 4] [--json] [--goals]

Takes AFLOW prototypes of pymatgen: all, the smaller half and the larger half by atoms, some times over. Each
set is written with `dgl.save_graphs`, as alignn's LMDB and as PyG's `InMemoryDataset`. Memory is private memory of
a process of its own that loads the file, and of a child forked from it that looks at every graph. Needs Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("DGLBACKEND", "pytorch")

import dgl
import torch
from torch_geometric.data import Data, InMemoryDataset

from nodebudget.analysis.dataset_storage import FORMATS, dataset_storage
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.size_table import SizeTable
from nodebudget.utils.byte_units import format_bytes

#: Largest relative error of any figure over `FEW` bytes.
GOAL, FEW = 0.05, 2**20

Pair = tuple[Any, Any]


def built(crystals: list[dict[str, Any]]) -> list[Pair]:
    """Return alignn's graph and line graph of each crystal."""
    from alignn.graphs import Graph
    from jarvis.core.atoms import Atoms

    atoms = (Atoms.from_dict(crystal["atoms"]) for crystal in crystals)
    return [Graph.atom_dgl_multigraph(atom, cutoff=8.0, max_neighbors=12) for atom in atoms]


def write_dgl(pairs: list[Pair], folder: Path) -> Path:
    """Write graphs and line graphs to one file."""
    path = folder / "graphs.bin"
    dgl.save_graphs(str(path), [graph for pair in pairs for graph in pair], {"y": torch.zeros(len(pairs))})
    return path


def write_lmdb(crystals: list[dict[str, Any]], folder: Path) -> Path:
    """Write the cache of alignn's training."""
    from alignn.lmdb_dataset import get_torch_dataset

    entries = [{**crystal, "jid": str(place), "y": 1.0} for place, crystal in enumerate(crystals)]
    path = folder / "cache"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        get_torch_dataset(
            entries, target="y", use_canonize=True, output_dir=str(folder), tmp_name=str(path), map_size=2**36
        )
    return path / "data.mdb"


def write_pyg(pairs: list[Pair], folder: Path) -> Path:
    """Write the same tensors as PyG collates them."""
    samples = []
    for graph, line_graph in pairs:
        fields = {"x": graph.ndata["atom_features"], "V": graph.ndata["V"], "pos": graph.ndata["frac_coords"]}
        fields |= {"edge_index": torch.stack(graph.edges()), **graph.edata, "y": torch.zeros(1)}
        fields |= {"line_edge_index": torch.stack(line_graph.edges()), "h": line_graph.edata["h"]}
        samples.append(Data(**fields))
    path = folder / "data.pt"
    InMemoryDataset.save(samples, str(path))
    return path


def private() -> int:
    """Return the memory of this process that it shares with no other and no file, bytes."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def loaded(kind: str, path: str) -> Any:
    """Return what a process holds of a file."""
    if kind == "dgl":
        return dgl.load_graphs(path)
    if kind == "alignn_lmdb":
        from alignn.lmdb_dataset import TorchLMDBDataset

        return TorchLMDBDataset(str(Path(path).parent))
    dataset = InMemoryDataset()
    dataset.load(path)
    return dataset


def look_at_all(kind: str, data: Any) -> None:
    """Take every graph, as the worker of a loader does."""
    for place in range(len(data[0] if kind == "dgl" else data)):
        if kind == "dgl":
            graph = data[0][place]
            graph.num_nodes(), [*graph.ndata.values()], [*graph.edata.values()]
        else:
            # PyG keeps the samples that were taken, as small objects.
            _ = data[place]


def of_a_worker(kind: str, data: Any) -> int:
    """Return the private memory of a forked process after it looked at all graphs."""
    reader, writer = os.pipe()
    if not os.fork():
        look_at_all(kind, data)
        os.write(writer, str(private()).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reader, 64))


def child(kind: str, path: str, small: str) -> None:
    """Print what the file adds to the private memory of this process, and of a worker, over a file of few graphs."""
    first = loaded(kind, small)
    look_at_all(kind, first)
    before, worker_before = private(), of_a_worker(kind, first)
    data = loaded(kind, path)
    held = private() - before
    print(json.dumps([held, of_a_worker(kind, data) - worker_before]))


def rows_of(name: str, crystals: list[dict[str, Any]], copies: int, folder: Path) -> list[dict[str, Any]]:
    """Return expected and measured bytes of one set in each format."""
    pairs = built(crystals)
    counts = [(graph.num_nodes(), graph.num_edges(), line.num_edges()) for graph, line in pairs] * copies
    sizes = SizeTable.from_counts(*zip(*counts, strict=True))
    rows = []
    for kind, storage in dataset_storage(sizes).items():
        files = []
        for part, times in (("small", 1), ("all", copies)):
            place = folder / name.replace(" ", "-") / kind / part
            place.mkdir(parents=True)
            if kind == "alignn_lmdb":
                files.append(write_lmdb((crystals if times > 1 else crystals[:4]) * times, place))
            else:
                write = write_dgl if kind == "dgl" else write_pyg
                files.append(write((pairs if times > 1 else pairs[:4]) * times, place))
        command = [sys.executable, __file__, "--child", kind, str(files[1]), str(files[0])]
        process, worker = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        measured = {"disk": files[1].stat().st_size, "process": process, "worker": worker}
        expected = {key: getattr(storage, key) for key in measured}
        rows.append({"set": name, "graphs": len(sizes), "format": kind, "measured": measured, "expected": expected})
    return rows


def error(row: dict[str, Any], what: str) -> float | None:
    """Return the relative error of a figure; None where next to nothing is expected and measured."""
    measured, expected = row["measured"][what], row["expected"][what]
    return None if max(measured, expected) < FEW else expected / max(measured, 1) - 1


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of Markdown."""
    head = ["crystals", "graphs", "format", "on disk", "error", "in a process", "error", "each worker adds"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [row["set"], f"{row['graphs']:,}", FORMATS[row["format"]]]
        for what in ("disk", "process"):
            value = error(row, what)
            cells += [format_bytes(row["measured"][what]), "–" if value is None else f"{value:+.1%}"]
        worker = f"{format_bytes(row['measured']['worker'])} ({format_bytes(row['expected']['worker'])})"
        lines.append([*cells, worker])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Measure, print the table, and check the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th crystal")
    parser.add_argument("--copies", type=int, default=4, help="how many times over, 2 or more")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--goals", action="store_true", help="fail where a figure is over 5% off")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of alignn and DGL
    if given.child:
        child(*given.child)
        return 0
    crystals = [crystal for part in example_datasets().values() for crystal in part][:: given.every]
    crystals.sort(key=lambda crystal: len(crystal["atoms"]["elements"]))
    half = len(crystals) // 2
    sets = {"all": crystals, "smaller half": crystals[:half], "larger half": crystals[half:]}
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name, part in sets.items() for row in rows_of(name, part, given.copies, Path(folder))]
    missed = [
        f"{row['set']}, {row['format']}, {what}"
        for row in rows
        for what in ("disk", "process")
        if abs(error(row, what) or 0) > GOAL
    ]
    print(json.dumps({"rows": rows, "missed": missed}, indent=2) if given.json else table(rows))
    if given.goals and missed:
        print("missed: " + "; ".join(missed), file=sys.stderr)
    return int(given.goals and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
