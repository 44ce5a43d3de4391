"""Feed mutated files to everything that is read from disk, guided by coverage (atheris, which is libFuzzer).

    pip install 'nodebudget[test,fuzz]'
    python scripts/fuzz.py [--runs 1000000] [--reader NAME ...] [--findings FOLDER] [--list]

The readers run in separate processes, one after the other. Each starts from files that it can read and from the
corpus of earlier findings (tests/corpus). An input must give a value or one NodeBudgetError whose text is safe to
print, within 10 seconds and 3 GiB; nothing may be unpickled, no program started, and nothing written outside of the
temporary folder. The first input of each kind of failure is written to FOLDER. A process that dies or hangs is
replaced, and its input written as well. The exit code is 1 where anything was found.

Inputs are distributed by the speed of the readers. DGL's native reader of .bin files is left out: it can end its
process, which is why the package checks such files in a process of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

#: Seconds and MiB that an input may take.
SLOW, MEMORY = 10, 3072
#: Bytes of the largest input: databases and archives are never small.
LENGTH = {
    "ase": 2**17,
    "aselmdb": 2**15,
    "structures": 2**14,
    "extxyz": 2**13,
    "cif_csv": 2**13,
    "tar": 2**14,
    "tar_files": 2**14,
    "calibration": 2**14,
}
#: Shares of the inputs: fast readers get many.
SHARES: dict[str, float] = {
    **{
        "sizes_csv": 280,
        "poscar": 200,
        "sizes_npy": 180,
        "state": 80,
        "calibration": 70,
        "plan_json": 50,
        "plan_npz": 40,
        "sizes_mapped": 120,
        "sizes_mapped_npy": 120,
        "workload": 20,
    },
    **{"sizes_npz": 30, "jsonl": 12, "json_zip": 12, "journal": 12, "config_toml": 12, "part": 8, "json": 8, "run": 8},
    **{"config_json": 8, "sizes_parquet": 6, "crystal": 4, "json_zipped": 4, "tar": 4, "tar_files": 3, "parquet": 3},
    **{"id_prop": 3, "xyz": 2, "cif": 2, "page": 2, "config_yaml": 2, "ase": 1, "cache": 1, "diagnose": 0.5},
    **{"extxyz": 8, "structures": 4, "traj": 4, "cif_csv": 2, "unsupported": 8, "aselmdb": 0.3},
}


class Target:
    """What libFuzzer calls with one input after another.

    Args:
        name: Of the reader.
        runs: How many inputs.
        findings: Folder for the first input of each kind of failure.
        status: File for the number of inputs so far and what was found.
    """

    def __init__(self, name: str, runs: int, findings: Path, status: Path) -> None:
        import feeding
        from hostile import READERS

        self._feed, self._watched, self._reader = feeding.feed, feeding.watched, READERS[name]
        self._runs, self._findings, self._status = runs, findings / name, status
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self._started, self._slowest = time.monotonic(), 0.0
        self._count, self._refused, self._found = 0, 0, {}

    def __call__(self, data: bytes) -> None:
        """Read one input."""
        before = time.perf_counter()
        failure: BaseException | None = None
        with self._watched(self._folder) as seen:
            try:
                self._refused += self._feed(self._reader, data, self._folder) is not None
            except BaseException as error:
                failure = error
        if failure is not None:
            self._keep(data, "".join(traceback.format_exception(failure)[-6:]), _kind(failure))
        if seen:
            self._keep(data, "\n".join(seen), seen[0])
        taken = time.perf_counter() - before
        if taken > self._slowest:
            self._slowest = taken
            self._write(data, f"slowest-{self._reader.file}")
        self._count += 1
        if self._count % 500 == 0 or self._count >= self._runs:
            self._report()
        if self._count >= self._runs:
            os._exit(0)

    def _keep(self, data: bytes, said: str, kind: str) -> None:
        if kind not in self._found:
            mark = hashlib.sha256(kind.encode()).hexdigest()[:8]
            self._write(data, mark)
            self._write(said.encode(), f"{mark}.txt")
        self._found[kind] = self._found.get(kind, 0) + 1

    def _write(self, data: bytes, name: str) -> None:
        self._findings.mkdir(parents=True, exist_ok=True)
        (self._findings / name).write_bytes(data)

    def _report(self) -> None:
        seconds = time.monotonic() - self._started
        state = {"inputs": self._count, "refused": self._refused, "seconds": seconds}
        self._status.write_text(json.dumps({**state, "slowest": self._slowest, "found": self._found}))


def _kind(error: BaseException) -> str:
    """Return what was raised and where: failures of one kind are one finding."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = ([frame for frame in frames if "/nodebudget/" in frame.filename] or frames)[-1]
    return f"{type(error).__name__} at {Path(inner.filename).name}:{inner.lineno}"


def child(name: str, runs: int, findings: Path, status: Path, seed: int) -> None:
    """Fuzz one reader in this process, which ends with it."""
    import atheris

    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["nodebudget", "jarvis.io.vasp.inputs", "jarvis.core.atoms"]):
        target = Target(name, runs, findings, status)
        from hostile import READERS
        from paths import CORPUS

        seeds = READERS[name].seeds()
        # Modules that are imported meanwhile are instrumented too.
        for content in seeds:
            target._feed(READERS[name], content, target._folder)
    folder = Path(tempfile.mkdtemp(prefix="seeds-"))
    corpus = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))] if (CORPUS / name).is_dir() else []
    for number, content in enumerate([*seeds, *corpus]):
        (folder / str(number)).write_bytes(content)
    (findings / name).mkdir(parents=True, exist_ok=True)
    flags = {
        **{"timeout": SLOW, "rss_limit_mb": MEMORY, "max_len": LENGTH.get(name, 4096), "seed": seed, "verbosity": 0},
        **{"artifact_prefix": f"{findings / name}/", "print_final_stats": 0},
    }
    target._started = time.monotonic()
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in flags.items()), str(folder)], target)
    atheris.Fuzz()


def fuzz(name: str, runs: int, findings: Path) -> dict[str, Any]:
    """Fuzz one reader in one process after the other until all inputs are read; return the results."""
    total: dict[str, Any] = {"inputs": 0, "refused": 0, "seconds": 0.0, "slowest": 0.0, "found": {}}
    lives = 0
    while total["inputs"] < runs and lives < 20:
        lives += 1
        with tempfile.TemporaryDirectory() as folder:
            status = Path(folder) / "status.json"
            command = [sys.executable, __file__, "--child", str(status), "--reader", name, "--seed", str(lives)]
            command += ["--runs", str(runs - total["inputs"]), "--findings", str(findings)]
            environment = {**os.environ, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "DGLBACKEND": "pytorch"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            state = json.loads(status.read_text()) if status.exists() else {"inputs": 0, "found": {}}
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "ERROR" in line or "Error" in line]
            kind = f"the process ended with {done.returncode}: {' '.join(said)[-200:]}"
            state["found"][kind] = state["found"].get(kind, 0) + 1
            # Inputs since its last report are not counted; the one that hung or crashed is.
            state["inputs"] += 1
        for key in ("inputs", "refused", "seconds"):
            total[key] += state.get(key, 0)
        total["slowest"] = max(total["slowest"], state.get("slowest", 0.0))
        for kind, count in state["found"].items():
            total["found"][kind] = total["found"].get(kind, 0) + count
    return total


def shares(names: list[str], runs: int) -> dict[str, int]:
    """Distribute inputs over readers, rounded up."""
    every = sum(SHARES[name] for name in names)
    return {name: math.ceil(runs * SHARES[name] / every) for name in names}


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs of all readers together")
    parser.add_argument("--reader", action="append", choices=list(SHARES), help="only this; may be repeated")
    parser.add_argument(
        "--findings", type=Path, default=Path("findings"), help="folder for inputs that break something"
    )
    parser.add_argument("--list", action="store_true", help="name the readers")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.reader[0], given.runs, given.findings.resolve(), given.child, given.seed)
    names = given.reader or list(SHARES)
    if given.list:
        print("\n".join(names))
        return 0
    print(f"{'reader':14} {'inputs':>9} {'inputs/s':>9} {'refused':>8} {'slowest':>9}  found")
    totals = {"inputs": 0, "seconds": 0.0, "found": 0}
    for name, runs in shares(names, given.runs).items():
        done = fuzz(name, runs, given.findings.resolve())
        rate, refused = done["inputs"] / max(done["seconds"], 1e-9), done["refused"] / max(done["inputs"], 1)
        print(
            f"{name:14} {done['inputs']:9,} {rate:9,.0f} {refused:8.1%} {done['slowest'] * 1000:6,.0f} ms"
            f"  {len(done['found']) or 'nothing'}",
            flush=True,
        )
        for kind, count in done["found"].items():
            print(f"    {count:,} x {kind}", flush=True)
        totals["inputs"] += done["inputs"]
        totals["seconds"] += done["seconds"]
        totals["found"] += len(done["found"])
    print(f"{totals['inputs']:,} inputs in {totals['seconds']:,.0f} s; {totals['found'] or 'no'} kinds of failure")
    return 1 if totals["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
