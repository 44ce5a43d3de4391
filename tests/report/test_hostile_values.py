"""`nodebudget report` with what is foreign, damaged or wrong: text stays text, and errors are one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from calibrations import fitted
from pages import Elements, add, change, drawn_sizes, invoke, plain_files

from nodebudget.report.html.page import make_page

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"&"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain_files()
    return tmp_path


class TestEscaping:
    def test_names_of_files_ids_models_and_texts(self, folder):
        # No slash in a file's name.
        name = HOSTILE.replace("/", "") + ".json"
        known = replace(fitted(), context={"model": {"name": HOSTILE}, "device": {"name": HOSTILE}, "command": HOSTILE})
        known.save(name)
        lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
        lines[0] |= {"host": HOSTILE, "model": {"name": HOSTILE}, "packages": {HOSTILE: HOSTILE}}
        lines[-1]["status"] = HOSTILE
        for line in lines:
            if line.get("event") == "step":
                line["sizes"][HOSTILE] = 3
        (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        add(folder / "run.jsonl", event="warning", about=HOSTILE, step=1, time=1.0, text=HOSTILE)
        drawn_sizes(**{"ids": [HOSTILE] * 200}).with_column(HOSTILE, np.ones(200)).save(
            f"{HOSTILE.replace('/', '')}.csv"
        )
        page = make_page([name, f"{HOSTILE.replace('/', '')}.csv", "run.jsonl"], title=HOSTILE)
        found = Elements(page.html)
        assert not {"script", "img"} & set(found.names)
        assert HOSTILE in "".join(found.text)
        assert "<script" not in page.html
        assert "<img" not in page.html

    def test_signs_that_no_page_can_show(self, folder):
        change(folder / "cal.json", command="a\ud800b\x1b[31mred\x00", model={"name": "\x07"})
        done = invoke("cal.json", "--title", "t\x1b")
        assert done.exit_code == 0, done.output
        html = (folder / "report.html").read_text()
        assert "a\\ud800b\\x1b[31mred\\x00" in html
        assert not {"\x1b", "\x00", "\x07"} & set(html)
        add(folder / "run.jsonl", event="warning", about="x", step=1, time=1.0, text="\x1b[31m\ud800")
        done = invoke("run.jsonl", "--force")
        assert "\x1b" not in done.stdout
        assert done.exit_code == 0

    def test_a_file_name_that_is_no_unicode(self, folder):
        name = b"cal\xff.json".decode(errors="surrogateescape")
        (folder / name).write_bytes((folder / "cal.json").read_bytes())
        assert "cal\\udcff.json" in make_page([name]).html
        assert invoke(name, "--json").exit_code == 0


WRONG = {
    "nothing": ([], "'FILES...'", "see 'nodebudget report --help'"),
    "a missing file": (["nowhere.json"], "'nowhere.json' can't be read", "check the path"),
    "missing sizes": (["nowhere.npz"], "'nowhere.npz'", "check the path"),
    "a folder": (["."], "'.' can't be read", "check the path"),
    "crystals": (["crystals.json"], "it holds a list", "nodebudget measure DATA -o sizes.npz"),
    "an empty file": (["empty.json"], "'empty.json' can't be shown", "make this one again"),
    "a text": (["notes.txt"], "'notes.txt' can't be shown: it is not JSON", "name other files"),
    "a picture": (["bytes.bin"], "it is not a text", "name other files"),
    "any JSON": (["object.json"], "it names no kind", "name other files"),
    "a record of another kind": (["tune.json"], "its kind is 'nodebudget.tune'", "name other files"),
    "a newer calibration": (["newer.json"], "schema version 99", "make the record again"),
    "a newer plan": (["newer_plan.json"], "schema version 99", "make the record again"),
    "a newer run": (["newer.jsonl"], "schema version 99", "install the nodebudget that wrote it"),
    "a cut calibration": (["cut.json"], "'cut.json' can't be shown", "make this one again"),
    "a calibration without its half": (["half.json"], "'half.json' is a damaged calibration", "calibrate again"),
    "a calibration of words": (["words.json"], "'words.json' is a damaged calibration", "make it again"),
    "a plan without batches": (["bare_plan.json"], "'bare_plan.json' is a damaged plan", "plan again"),
    "a plan of an empty batch": (["hole.json"], "batches must hold a graph or more each", "plan again"),
    "a plan without limits": (["unlimited.json"], "'unlimited.json' is a damaged plan", "make it again"),
    "a run of words": (["words.jsonl"], "'words.jsonl' is damaged", "remove that line"),
    "an archive of something else": (["other.npz"], "'other.npz' is not a size table", "measure"),
    "an archive cut": (["cut.npz"], "'cut.npz'", ""),
    "a plan's archive cut": (["cut_plan.npz"], "'cut_plan.npz' is a damaged plan", "plan again"),
    "a batch size of zero": (["sizes.npz", "--batch-size", "0"], "--batch-size is 0", "choose a number"),
    "no folder for the page": (["cal.json", "-o", "no/page.html"], "no folder 'no'", "make it"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(case, folder):
    arguments, value, step = WRONG[case]
    calibration, plan = (json.loads((folder / name).read_text()) for name in ("cal.json", "plan.json"))
    log = (folder / "run.jsonl").read_text()
    archive = (folder / "plan.npz").read_bytes()
    words = [{**entry, "peak": "much"} for entry in calibration["observations"]]
    files = {
        "crystals.json": json.dumps([{"atoms": {}}]),
        "empty.json": "",
        "notes.txt": "hello\n",
        "object.json": json.dumps({"a": 1}),
        "tune.json": json.dumps({"kind": "nodebudget.tune", "schema_version": 1}),
        "newer.json": json.dumps({**calibration, "schema_version": 99}),
        "newer_plan.json": json.dumps({**plan, "schema_version": 99}),
        "newer.jsonl": log.replace('"schema_version":1', '"schema_version":99', 1),
        "cut.json": (folder / "cal.json").read_text()[:500],
        "half.json": json.dumps({key: calibration[key] for key in ("kind", "schema_version", "coefficients")}),
        "words.json": json.dumps({**calibration, "observations": words}),
        "bare_plan.json": json.dumps({key: value for key, value in plan.items() if key != "plan"}),
        "hole.json": json.dumps({**plan, "plan": [[0], [], [1]]}),
        "unlimited.json": json.dumps({**plan, "limits": None}),
        "words.jsonl": log.replace('"seconds":', '"seconds":"long","was":'),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "bytes.bin").write_bytes(bytes(range(256)))
    np.savez("other.npz", something=np.arange(3))
    (folder / "cut.npz").write_bytes(archive[: len(archive) // 2])
    with zipfile.ZipFile("plan.npz") as whole, zipfile.ZipFile("cut_plan.npz", "w") as cut:
        for entry in whole.namelist():
            data = whole.read(entry)
            cut.writestr(entry, data[: len(data) // 2] if entry == "indices.npy" else data)
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    what, _, hint = done.stderr.rpartition("; ")
    assert what.startswith("nodebudget: ")
    assert value in what
    assert step in hint
    assert not (folder / "report.html").exists()


def test_wrong_values_in_a_record_are_damage_and_no_traceback(folder):
    """Each value of each record, replaced by what it must not be, gives a page or a sentence."""
    for name in ("cal.json", "plan.json"):
        record = json.loads((folder / name).read_text())
        for key in record:
            for wrong in (None, "words", [1, "a"], {"a": None}, 1e308):
                (folder / "wrong.json").write_text(json.dumps({**record, key: wrong}))
                done = invoke("wrong.json", "sizes.npz", "--force", "-q")
                assert done.exit_code in (0, 2), (name, key, wrong, done.exception)
                assert isinstance(done.exception, (SystemExit, type(None))), (name, key, wrong)


def test_wrong_values_in_a_log_are_damage_and_no_traceback(folder):
    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    for place, line in enumerate(lines):
        for key in line:
            for wrong in (None, "words", [], 1e308):
                changed = [*lines[:place], {**line, key: wrong}, *lines[place + 1 :]]
                (folder / "wrong.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in changed))
                done = invoke("wrong.jsonl", "--force", "-q")
                assert done.exit_code in (0, 2), (place, key, wrong, done.exception)
                assert isinstance(done.exception, (SystemExit, type(None))), (place, key, wrong)


def test_without_jinja_it_says_what_to_install(folder):
    code = "import sys; sys.modules['jinja2'] = None; from nodebudget.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", "cal.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr.startswith("nodebudget: Jinja2 is needed for this")
    assert done.stderr.endswith("pip install 'nodebudget[report]'\n")
    assert not (folder / "report.html").exists()
