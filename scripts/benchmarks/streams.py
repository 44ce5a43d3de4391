"""How fast datasets on disk are measured, format by format, and in how much memory.

    python scripts/benchmarks/streams.py [--crystals 4000] [--many 40000] [--json]

The AFLOW prototypes that come with pymatgen of up to 30 atoms, again and again under new names. Times are the
processor's, so that other programs on the machine change little. "Read for workers" is what one process can hand to
others, who parse and count: it bounds how many it can feed. Memory is the highest of a process that measures a few
crystals, then many.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))

from formats import WRITERS, structure_files, write_lines, write_members, write_parquet

from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import open_source
from nodebudget.utils.optional_imports import require

MIB = 2**20
#: Parquet with row groups of a usual size.
MADE: dict[str, Any] = {
    **{name: write for name, write in WRITERS.items() if name != "shards"},
    "struct.parquet": lambda path, made: write_parquet(path, made, rows=10_000),
    "text.parquet": lambda path, made: write_parquet(path, made, text=True, rows=10_000),
    "poscars.tar": lambda path, made: write_members(path, structure_files(made)),
}
PEAKS = """
import sys
from pathlib import Path
from nodebudget.datasets.measure import measure
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")
    measure(path, cache=False)
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
"""


def crystals(count: int) -> list[dict[str, Any]]:
    """Return JARVIS-style entries with names of their own."""
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY
    atoms = require("jarvis.core.atoms")
    found = [atoms.pmg_to_atoms(entry["snl"].structure).to_dict() for entry in library]
    found = [values for values in found if len(values["elements"]) <= 30]
    return [{"jid": f"AFLOW-{n:08d}", "target": 1.0, "atoms": found[n % len(found)]} for n in range(count)]


def seconds(work: Any) -> float:
    """Return how long the processor works on a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def throughput(folder: Path, count: int) -> list[dict[str, Any]]:
    """Measure each format on one core."""
    entries, rows = crystals(count), []
    # Imports and first calls.
    measure(write_lines(folder / "first.jsonl", entries[:10]), cache=False)
    for name, write in MADE.items():
        path = write(folder / name, entries)
        measuring = seconds(lambda path=path: measure(path, cache=False))
        reading = seconds(lambda path=path: [chunk.count for chunk in open_source(path).chunks(0)])
        measure(path)
        cached = seconds(lambda path=path: measure(path))
        size = path.stat().st_size / count
        rows.append(
            {
                "format": name,
                "bytes": size,
                "per_second": count / measuring,
                "read_per_second": count / reading,
                "cached_ms": 1000 * cached,
            }
        )
    return rows


def memory(folder: Path, few: int, many: int) -> dict[str, Any]:
    """Return the highest memory of a process that measures a few crystals, and many."""
    paths = [write_lines(folder / f"{count}.jsonl", crystals(count)) for count in (few, many)]
    # The first call imports what measuring needs.
    command = [sys.executable, "-W", "ignore", "-c", PEAKS, *map(str, [paths[0], *paths])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, before, after = map(int, done.stdout.split())
    grown = (after - before) / (many - few)
    return {"few": few, "many": many, "file": paths[1].stat().st_size, "before": before, "after": after, "each": grown}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=4000, help="crystals of each format")
    parser.add_argument("--many", type=int, default=40_000, help="crystals whose memory is compared with that of 2,000")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        rows = throughput(Path(name), options.crystals)
        found = memory(Path(name), min(2000, options.many // 2), options.many)
    if options.json:
        print(json.dumps({"formats": rows, "memory": found}, indent=2))
        return
    print("| format | bytes a crystal | crystals a second and core | read for workers, a second | from the cache |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['format']} | {row['bytes']:,.0f} | {row['per_second']:,.0f} | {row['read_per_second']:,.0f} "
            f"| {row['cached_ms']:.1f} ms |"
        )
    print()
    print(f"{found['few']:,} crystals: at most {found['before'] / MIB:.1f} MiB in memory")
    print(f"{found['many']:,} crystals ({found['file'] / MIB:.1f} MiB on disk): {found['after'] / MIB:.1f} MiB")
    print(f"{found['each']:.0f} bytes a further crystal")


if __name__ == "__main__":
    main()
