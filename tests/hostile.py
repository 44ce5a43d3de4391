"""Everything that is read from disk, each reader with files that it takes: for files that are damaged, or crafted."""

from __future__ import annotations

import functools
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from crystals import entries
from feeding import Reader
from formats import structure_files, write_ase, write_lines, write_members, write_parquet, write_webdataset

from nodebudget import Calibration, SizeTable
from nodebudget.costmodel import Observation
from nodebudget.errors import CrystalError
from nodebudget.frameworks import require
from nodebudget.measure import GraphSettings, measure_path, open_data

GOLDEN = Path(__file__).parent / "golden"
CORPUS = Path(__file__).parent / "corpus"


def _measured(path: Path) -> None:
    measure_path(path, cache=False, on_error="skip")
    data = open_data(path)
    for index in range(min(len(data), 3)):
        data[index]


def _folder(path: Path) -> None:
    (path.parent / "POSCAR-00.vasp").write_bytes(_structures()[0])
    _measured(path.parent)


def _cached(path: Path) -> None:
    """Measure, and once more with settings in the cache that somebody else wrote."""
    data = path.with_name("data.jsonl")
    if not data.exists():
        write_lines(data, entries(count=1))
    measure_path(data)
    [cache] = (path.parent / ".nodebudget").iterdir()
    with np.load(cache) as arrays:
        mark = json.loads(arrays["_settings"].tobytes())["cache"]
        kept = {name: arrays[name] for name in arrays.files if name != "_settings"}
    try:
        settings = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    text = json.dumps({**settings, "cache": mark} if isinstance(settings, dict) else settings)
    np.savez(cache, _settings=np.frombuffer(text.encode(), np.uint8), **kept)
    try:
        measure_path(data)
        measure_path(data, on_error="skip")
    finally:
        cache.unlink()


def _part(path: Path) -> None:
    from nodebudget.measure.partial import Partial

    with Partial(path, {"data": "x"}) as kept:
        list(kept.rows())


def _journal(path: Path) -> None:
    from nodebudget.journal import Journal

    Journal(path, {"data": "x"}, resume=True)


def _plan(path: Path) -> None:
    from nodebudget.planfile import read_plan

    read_plan(path)


def _run(path: Path) -> None:
    from nodebudget.monitor import read_run, summarize
    from nodebudget.report.console import PlainConsole
    from nodebudget.report.run import live_view, run_text

    run, shown = read_run(path), io.StringIO()
    PlainConsole(file=shown, color_system=None).print(live_view(run, 2**30))
    text = run_text(summarize(run)) + shown.getvalue()
    assert text.replace("\n", "").isprintable(), ascii(text)


def _page(path: Path) -> None:
    from nodebudget.report.page import make_page

    make_page([str(path)])


@functools.cache
def _sampler() -> Any:
    from nodebudget import NodeBudgetSampler

    return NodeBudgetSampler(SizeTable.from_counts(range(1, 40)), max_nodes=100)


def _state(path: Path) -> None:
    try:
        state = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    _sampler().load_state_dict(state)
    next(iter(_sampler()), None)


def _config(path: Path) -> None:
    from nodebudget.diagnose import read_run

    assert read_run(path).flat is not None
    if path.suffix == ".json":
        GraphSettings.from_alignn_config(path)


def _diagnosed(path: Path) -> None:
    from nodebudget.diagnose import diagnose, read_run
    from nodebudget.report.diagnose import diagnosis_text

    base = path.with_name("base.json")
    base.write_bytes(_configs()[0])
    diagnosis_text(diagnose(read_run(base), read_run(path)))


def _mapped(path: Path) -> None:
    table = SizeTable.load(path, mmap=True)
    table.statistics()
    table.fingerprint()


def _workload(path: Path) -> None:
    # What it names is imported and called, as the user says; what is read before that can't do anything.
    from nodebudget.workload.load import _resolve

    _resolve(str(path))


def _structure(path: Path) -> Any:
    from nodebudget.measure.bounds import Bounds
    from nodebudget.measure.neighbors import UnusableError
    from nodebudget.measure.structures import read_structure

    try:
        return read_structure(path.name, path.read_bytes(), Bounds())
    except UnusableError as error:
        raise CrystalError(0, path.name, str(error)) from error


def _counted(path: Path) -> None:
    from nodebudget.measure.rows import measure_records

    for settings in (GraphSettings(), GraphSettings(strategy="radius_graph", cutoff=5.0)):
        measure_records([(path.name, {"atoms": _structure(path)})], settings)


def _written(name: str, write: Callable[[Path], object]) -> Callable[[], list[bytes]]:
    """What a function writes to a file of that name."""

    @functools.cache
    def contents() -> list[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / name)
            return [(Path(folder) / name).read_bytes()]

    return contents


@functools.cache
def _structures() -> list[bytes]:
    return [content for _, content in structure_files(entries(count=4))]


@functools.cache
def _cifs() -> list[bytes]:
    library = require("pymatgen.analysis.prototypes").AFLOW_PROTOTYPE_LIBRARY
    return [library[number]["snl"].structure.to(fmt="cif", symprec=0.01).encode() for number in (0, 3, 8)]


def _xyz() -> list[bytes]:
    return [b"2\n5,0,0,0,5,0,0,0,5\nSi 0 0 0\nSi 1.3 1.3 1.3\n", b"1\nwater\nO 0.0 0.0 0.0\n"]


def _lists() -> list[bytes]:
    text = json.dumps(entries(count=2))
    return [text.encode(), text.encode("utf-16"), b"[]"]


def _lines() -> list[bytes]:
    return [b"".join(json.dumps(entry).encode() + b"\n" for entry in entries(count=2))]


def _configs() -> list[bytes]:
    model = {"name": "alignn", "alignn_layers": 1, "gcn_layers": 1, "hidden_features": 16}
    plain = {"neighbor_strategy": "k-nearest", "cutoff": 8.0, "max_neighbors": 12, "batch_size": 64, "optimizer": "sgd"}
    return [json.dumps(plain | {"model": model}).encode(), json.dumps({"a": {"b": [1, "x"]}, "dtype": "half"}).encode()]


def _states() -> list[bytes]:
    return [json.dumps(_sampler().state_dict(consumed=2)).encode()]


def _parts(path: Path) -> None:
    from nodebudget.measure.partial import Partial

    with Partial(path, {"data": "x"}) as kept:
        kept.add(0, [("a", (1, 12, 132)), (None, "no atoms")])
        kept.add(2, [("b", (2, 24, 264))])


def _journals(path: Path) -> None:
    from nodebudget.journal import Journal

    journal = Journal(path, {"data": "x"}, resume=False)
    journal.add("1 2", Observation({"graphs": 2, "nodes": 8}, 10**6, 10**5, "fit"))
    journal.add("3", None)


def _logs(path: Path) -> None:
    from nodebudget import MemoryMonitor

    with MemoryMonitor(path, sizes=lambda batch: {"graphs": 64, "nodes": 2240}, device="cpu") as monitor:
        list(monitor.watch(range(3)))
    with path.open("a") as file:
        file.write('{"event":"warning","about":"drift","step":3,"time":1.0,"text":"a leak"}\n')


def _plans(path: Path) -> None:
    _sampler().plan.save(path)


_TABLE = SizeTable.from_counts([1, 2, 4], [12, 24, 50], [132, 264, 600], ids=["a", "b,c", "ü"], tokens=[0.5, 1, 2])


def _members(array: bytes) -> bytes:
    """An archive with this array in it, as numpy writes it but for what it holds."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("nodes.npy", array)
    return made.getvalue()


def _array() -> list[bytes]:
    made = io.BytesIO()
    np.save(made, np.arange(3))
    return [made.getvalue()]


def _zipped(text: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("data.json", text)
    return made.getvalue()


def _checked_headers(archive: bytes) -> bytes:
    """Write the right checksum into everything that looks like a header of a tar archive."""
    found = bytearray(archive)
    for start in range(0, len(found) - 511, 512):
        header = found[start : start + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            found[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(found)


def _checked_lines(text: bytes) -> bytes:
    """Write the right checksum before every line."""
    lines = [re.sub(rb"^[0-9a-f]{8} ", b"", line) for line in text.split(b"\n")]
    return b"\n".join(b"%08x " % zlib.crc32(line) + line if line else line for line in lines)


#: By the name under which a reader's findings are kept.
READERS: dict[str, Reader] = {
    "json": Reader("data.json", _measured, _lists),
    "jsonl": Reader("data.jsonl", _measured, _lines),
    "json_zip": Reader("data.json.zip", _measured, lambda: [_zipped(text) for text in _lists()]),
    "json_zipped": Reader("data.json.zip", _measured, _lists, _zipped),
    "tar": Reader(
        "data.tar",
        _measured,
        _written("a.tar", lambda path: write_webdataset(path, entries(count=2))),
        _checked_headers,
    ),
    "tar_files": Reader(
        "data.tar",
        _measured,
        _written("a.tar", lambda path: write_members(path, structure_files(entries(count=2)))),
        _checked_headers,
    ),
    "crystal": Reader("one.vasp", _counted, _structures),
    "cif": Reader("one.cif", _structure, _cifs),
    "poscar": Reader("one.vasp", _structure, _structures),
    "xyz": Reader("one.xyz", _structure, _xyz),
    "id_prop": Reader("id_prop.csv", _folder, lambda: [b"POSCAR-00.vasp,1.0\nPOSCAR-01.vasp,2.0\n"]),
    "ase": Reader("data.db", _measured, _written("a.db", lambda path: write_ase(path, entries(count=2)))),
    "parquet": Reader(
        "data.parquet", _measured, _written("a.parquet", lambda path: write_parquet(path, entries(count=2)))
    ),
    "sizes_csv": Reader("sizes.csv", SizeTable.load, _written("a.csv", _TABLE.save)),
    "sizes_npz": Reader("sizes.npz", SizeTable.load, _written("a.npz", _TABLE.save)),
    "sizes_npy": Reader("sizes.npz", SizeTable.load, _array, _members),
    "sizes_mapped": Reader("sizes.npz", _mapped, _written("a.npz", lambda path: _TABLE.save(path, compress=False))),
    "sizes_mapped_npy": Reader("sizes.npz", _mapped, _array, _members),
    "sizes_parquet": Reader("sizes.parquet", SizeTable.load, _written("a.parquet", _TABLE.save)),
    "cache": Reader(
        "settings.json", _cached, lambda: [b'{"skipped":[{"index":0,"name":"a","reason":"b"}],"indices":[1]}']
    ),
    "part": Reader("sizes.npz.part", _part, _written("a.part", _parts), _checked_lines),
    "journal": Reader("cal.json.part", _journal, _written("a.part", _journals)),
    "calibration": Reader(
        "cal.json", Calibration.load, lambda: [path.read_bytes() for path in sorted(GOLDEN.glob("calibration_v*.json"))]
    ),
    "plan_json": Reader("plan.json", _plan, _written("a.json", _plans)),
    "plan_npz": Reader("plan.npz", _plan, _written("a.npz", _plans)),
    "run": Reader("run.jsonl", _run, _written("a.jsonl", _logs)),
    "page": Reader("run.jsonl", _page, _written("a.jsonl", _logs)),
    "state": Reader("state.json", _state, _states),
    "config_json": Reader("config.json", _config, _configs),
    "config_toml": Reader(
        "config.toml", _config, lambda: [b'cutoff = 8.0\n[model]\nname = "alignn"\nlayers = [1, 2]\n']
    ),
    "config_yaml": Reader(
        "config.yaml", _config, lambda: [b"cutoff: 8.0\nmodel: &m {name: alignn, layers: [1, 2]}\nb: *m\n"]
    ),
    "workload": Reader(
        "workload.toml", _workload, lambda: [b'workload = "alignn"\n[arguments]\nhidden_features = 64\nlayers = [1]\n']
    ),
    "diagnose": Reader("config.json", _diagnosed, _configs),
}
