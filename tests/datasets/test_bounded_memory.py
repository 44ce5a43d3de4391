"""Memory does not grow with the dataset, except for the table itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from formats import WRITERS, write_parquet

#: Measures a small dataset and then a large one, and prints by how many KiB the second's peak is higher.
SCRIPT = """
import sys
from pathlib import Path
from nodebudget.datasets.measure import measure

def peak(path):
    Path("/proc/self/clear_refs").write_text("5")
    table = measure(path, cache=False)
    status = Path("/proc/self/status").read_text()
    return len(table), int(status.split("VmHWM:")[1].split()[0])

for name in sys.argv[1:]:
    peak(f"few-{name}")
    (few, before), (many, after) = peak(f"few-{name}"), peak(f"many-{name}")
    print(name, few, many, after - before)
"""
FORMATS = ("lines.jsonl", "packed.jsonl.gz", "list.json", "text.parquet", "ase.db", "shard.tar")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux")
def test_memory_of_many_crystals_is_that_of_few(tmp_path):
    atoms = {
        "lattice_mat": [[3.0, 0.1, 0.2], [0.0, 3.1, 0.3], [0.0, 0.0, 3.2]],
        "coords": [[0.0, 0.0, 0.0]],
        "elements": ["Si"],
        "cartesian": False,
        "props": [""],
    }
    for size, count in (("few", 200), ("many", 2000)):
        # Padded to what a crystal of some 100 atoms takes.
        entries = [
            {"jid": f"x-{n:06d}", "atoms": atoms, "target": 1.0, "more": f"{n:06d}" * 1400} for n in range(count)
        ]
        for name in FORMATS:
            WRITERS[name](tmp_path / f"{size}-{name}", entries)
        # Other row groups than those of five rows, whose index alone takes megabytes.
        write_parquet(tmp_path / f"{size}-text.parquet", entries, text=True, rows=100)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *FORMATS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    grown = {name: json.loads(kib) for name, _, many, kib in map(str.split, done.stdout.splitlines()) if many == "2000"}
    assert grown.keys() == set(FORMATS)
    # The texts alone are 16 MiB; the table is 0.2 MiB.
    assert all(kib < 5000 for kib in grown.values()), grown
