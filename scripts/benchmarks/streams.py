"""How fast datasets on disk are measured, format by format, and in how much memory.

    python scripts/benchmarks/streams.py [--crystals 4000] [--many 40000] [--json]

The AFLOW prototypes of up to 30 atoms that come with pymatgen, repeated under new names. Times are processor time, so
that other programs on the machine change little. "Read for workers" is how many crystals one process can hand to
others, which parse and count them: it bounds how many workers it can feed. Memory is the peak of a process that
measures a few crystals, then many.
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
#: Parquet has row groups of a usual size.
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
    """Return JARVIS-style entries with different names."""
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY
    atoms = require("jarvis.core.atoms")
    small = [atoms.pmg_to_atoms(entry["snl"].structure).to_dict() for entry in library]
    small = [values for values in small if len(values["elements"]) <= 30]
    return [{"jid": f"AFLOW-{n:08d}", "target": 1.0, "atoms": small[n % len(small)]} for n in range(count)]


def seconds(work: Any) -> float:
    """Return the processor time of a call, in seconds."""
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
    """Return the peak memory of a process that measures a few crystals, and many, in bytes."""
    paths = [write_lines(folder / f"{count}.jsonl", crystals(count)) for count in (few, many)]
    # The first call imports what measuring needs.
    command = [sys.executable, "-W", "ignore", "-c", PEAKS, *map(str, [paths[0], *paths])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, before, after = map(int, done.stdout.split())
    each = (after - before) / (many - few)
    return {"few": few, "many": many, "file": paths[1].stat().st_size, "before": before, "after": after, "each": each}


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
        peaks = memory(Path(name), min(2000, options.many // 2), options.many)
    if options.json:
        print(json.dumps({"formats": rows, "memory": peaks}, indent=2))
        return
    print(
        "| format | bytes per crystal | crystals per second and core | read for workers, per second | from the cache |"
    )
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['format']} | {row['bytes']:,.0f} | {row['per_second']:,.0f} | {row['read_per_second']:,.0f} "
            f"| {row['cached_ms']:.1f} ms |"
        )
    print()
    print(f"{peaks['few']:,} crystals: peak of {peaks['before'] / MIB:.1f} MiB")
    print(f"{peaks['many']:,} crystals ({peaks['file'] / MIB:.1f} MiB on disk): {peaks['after'] / MIB:.1f} MiB")
    print(f"{peaks['each']:.0f} bytes per further crystal")


if __name__ == "__main__":
    main()
