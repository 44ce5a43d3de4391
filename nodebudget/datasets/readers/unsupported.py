"""What a file looks like that is not read, and the line that turns it into one that is."""

from __future__ import annotations

from pathlib import Path

from nodebudget.errors import InputError

SUPPORTED = (
    "supported: JSON of JARVIS, pymatgen or ASE structures (.json, .json.gz, .json.zip, .jsonl), .extxyz and .xyz, "
    ".cif, POSCAR, .csv or .parquet with a column cif, structure or atoms, ASE's .db, .aselmdb and .traj, .tar, a "
    "folder or a pattern of these, a DGL .bin, an LMDB, or sizes as .npz, .csv or .parquet"
)
#: Bytes in which the names of the packages of a pickle stand.
_START = 2**20
_ASE = "ase convert {path} data.extxyz"
#: Beginning of a file → what it is.
_MAGIC = {
    b"\x89HDF\r\n": "HDF5",
    b"CDF": "NetCDF",
    b"ARROW1": "Arrow IPC",
    b"FEA1": "Feather",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"(\xb5/\xfd": "a zstd archive",
    b"%PDF": "a PDF",
}
#: What turns such a file into one that is read.
_LINES = {
    "HDF5": 'read the atoms with h5py and write them with ase.io.write("data.extxyz", frames)',
    "NetCDF": _ASE,
    "Arrow IPC": "python -c \"import pyarrow.feather as f; f.read_feather('{path}').to_parquet('data.parquet')\"",
    "Feather": "python -c \"import pyarrow.feather as f; f.read_feather('{path}').to_parquet('data.parquet')\"",
}
#: Package that a pickle names → the line that writes what is in it, for a file that the user trusts.
_PICKLES = {
    b"torch_geometric": "nodebudget.measure(torch.load('{path}', weights_only=False)) in Python measures its graphs",
    b"dgl": "nodebudget.measure(pickle.load(open('{path}', 'rb'))) in Python measures its graphs",
    b"pandas": "python -c \"import pandas; pandas.read_pickle('{path}').to_json('data.json', default_handler=lambda s: "
    's.as_dict())"',
    b"pymatgen": "python -c \"import json, pickle; json.dump([s.as_dict() for s in pickle.load(open('{path}', 'rb'))], "
    "open('data.json', 'w'))\"",
    b"ase.": "python -c \"import pickle, ase.io; ase.io.write('data.extxyz', pickle.load(open('{path}', 'rb')))\"",
}
#: Suffix → what it is, of formats that ASE converts.
_BY_ASE = {
    **{".sdf": "an SDF of molecules", ".mol": "a MOL file", ".pdb": "a PDB file", ".xml": "XML, such as vasprun.xml"},
    **{".res": "a SHELX file", ".xsf": "an XSF file", ".gen": "a DFTB+ file", ".cfg": "a CFG file", ".nc": "NetCDF"},
    **{".lammpstrj": "a LAMMPS dump", ".xdatcar": "an XDATCAR", ".outcar": "an OUTCAR", ".mol2": "a MOL2 file"},
}


def unsupported(path: Path) -> InputError:
    """Return the error for a file whose format is not read: what it looks like, and how it becomes one that is."""
    with path.open("rb") as file:
        start = file.read(_START)
    name = path.name.lower()
    looks = next((what for magic, what in _MAGIC.items() if start.startswith(magic)), "")
    hint = _LINES.get(looks, "unpack it and name what is inside" if looks.endswith("archive") else "")
    by_ase = next((what for end, what in _BY_ASE.items() if name.endswith(end) or name == end[1:]), "")
    if start.startswith(b"\x80") or b"data.pkl" in start[:4096] or name.endswith((".pkl", ".pickle", ".pt", ".pth")):
        looks = "a pickle, and reading one can run any code that its maker put there"
        written = "write its structures as .extxyz or its graphs as a list for nodebudget.measure, where you trust it"
        hint = "where you trust it: " + next((line for part, line in _PICKLES.items() if part in start), written)
    elif by_ase and not looks:
        looks, hint = by_ase, _ASE
    elif not looks:
        looks, hint = _by_text(start)
    text = f" (it looks like {looks})" if looks else ""
    hint = hint or "convert it: ase.io.write('data.extxyz', list_of_atoms) in Python"
    return InputError(
        f"unsupported dataset format: {str(path)!r}{text}", limit=SUPPORTED, hint=hint.replace("{path}", path.name)
    )


def _by_text(start: bytes) -> tuple[str, str]:
    """Return what a file looks like by its text, and what to do with it."""
    text = start[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    first = text.split(b"\n", 1)[0].strip()
    if not text:
        return "an empty file", "check that it is complete"
    if text[:1] in b"[{":
        many = text[:1] == b"{" and b"\n{" in text
        ending = ".jsonl" if many else ".json"
        return "JSON, one object per line" if many else "JSON", f"name it {ending}"
    if first.isdigit() and len(text.split(b"\n")) > 2:
        return "XYZ", "name it .xyz or .extxyz"
    if text.startswith((b"data_", b"loop_", b"#")) and b"_cell_length_a" in start:
        return "a CIF", "name it .cif"
    return "", ""
