"""Names and texts of other people's files reach a terminal as text, never as something that it obeys."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from crystals import entries
from paths import GOLDEN
from rich.console import Console

import nodebudget.cli
from nodebudget import MemoryMonitor, SizeTable
from nodebudget.cli import main
from nodebudget.errors import printable, printable_lines
from nodebudget.monitor.log_reader import read_run
from nodebudget.report.text.live_view import PlainConsole, live_view

#: Clears the screen, sets the title of a window, ends a line and feigns another, writes from right to left, rings, and
#: is a mark of rich's that closes nothing.
HOSTILE = "a\x1b[2J\x1b]0;t\x07\nnodebudget: done\r\u202eb\x9b1m[/bold]"
SHOWN = HOSTILE.encode("unicode_escape").decode()


def invoke(*arguments):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert not isinstance(done.exception, Exception), done.exception
    for text in (done.stdout, done.stderr):
        assert text.replace("\n", "").isprintable(), ascii(text)
        assert "nodebudget: done" not in text.splitlines(), text
    return done


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = SizeTable.from_counts([2, 3], [20, 30], [200, 300]).with_column(HOSTILE, [1, 2])
    sizes.save(f"{HOSTILE}.npz".replace("/", ""))
    sizes.save("sizes.npz")
    return tmp_path


def test_what_is_escaped():
    assert printable(HOSTILE) == SHOWN
    assert printable_lines("a\nb\x1b") == "a\nb\\x1b"
    assert printable("Å – ü 漢") == "Å – ü 漢"


def test_names_of_files(folder):
    name = f"{HOSTILE}.json".replace("/", "")
    assert invoke("measure", name).exit_code == 2
    Path(name).write_text("[")
    assert SHOWN.replace("/", "") in invoke("measure", name).stderr
    Path(name).write_text(json.dumps(entries(count=2)))
    assert invoke("measure", name, "-o", f"{HOSTILE}.csv".replace("/", "")).exit_code == 0
    assert invoke("measure", "nothing", "--strategy", HOSTILE).exit_code == 2
    assert invoke("diagnose", name, name).exit_code == 2


def test_ids_and_reasons(folder):
    bad = {"jid": HOSTILE, "atoms": {HOSTILE: 1, "elements": [HOSTILE]}}
    Path("data.json").write_text(json.dumps([*entries(count=1), bad]))
    assert SHOWN in invoke("measure", "data.json").stderr
    assert SHOWN in invoke("measure", "data.json", "--on-error", "skip").stderr


def test_names_in_tables(folder):
    name = f"{HOSTILE}.npz".replace("/", "")
    assert "[/bold]" in invoke("measure", "sizes.npz").stdout
    for command in (
        ["compare", name, "sizes.npz", "--batch-size", 2],
        ["suggest", "--reference", name, "--target", "sizes.npz", "--batch-size", 2],
        ["plan", name, "--max-nodes", 10],
        ["plan", name, "--max-nodes", 1],
    ):
        assert invoke(*command).exit_code in (0, 1)


def test_settings_of_runs(folder):
    for name in ("a", "b"):
        Path(f"{name}.json").write_text(json.dumps({"batch_size": 64, HOSTILE: f"{HOSTILE}{name}", "c": name}))
    assert "[/bold]" in invoke("diagnose", "a.json", "b.json").stdout


def test_the_log_of_a_run(folder):
    with MemoryMonitor("run.jsonl", sizes=lambda batch: {"graphs": 2, HOSTILE: 3}, device="cpu") as monitor:
        list(monitor.watch(range(3)))
    lines = [json.loads(line) for line in Path("run.jsonl").read_text().splitlines()]
    lines[0] |= {"model": {"name": HOSTILE}, "note": HOSTILE, "device": {"device": HOSTILE, "name": HOSTILE}}
    lines[-1]["status"] = HOSTILE
    lines.insert(-1, {"event": "warning", "about": HOSTILE, "step": 1, "time": 1.0, "text": HOSTILE})
    Path("run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert SHOWN in invoke("monitor", "run.jsonl").stdout
    assert json.loads(invoke("monitor", "run.jsonl", "--json").stdout)["warnings"] == [HOSTILE]
    shown = io.StringIO()
    Console(file=shown, color_system=None, width=200).print(live_view(read_run("run.jsonl"), 2**30, gpu=HOSTILE))
    assert shown.getvalue().count(SHOWN) >= 5
    assert shown.getvalue().replace("\n", "").isprintable()


def test_errors_of_the_system(folder):
    done = invoke("measure", HOSTILE * 20)  # longer than the name of a file can be
    assert done.exit_code == 2
    assert SHOWN in done.stderr


def test_a_console_takes_marks_for_text():
    shown = io.StringIO()
    PlainConsole(file=shown, color_system=None).print("[red]x[/red] :smile: \x1b[1m")
    assert shown.getvalue() == "[red]x[/red] :smile: \\x1b[1m\n"


def test_commands_print_by_what_escapes():
    """All output of the commands goes through printer.py, command.py or a PlainConsole."""
    for path in Path(nodebudget.cli.__file__).parent.glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        used = {ast.unparse(call) for call in calls}
        if path.name not in ("printer.py", "command.py"):
            assert not {"click.echo", "click.secho", "print", "sys.stdout.write"} & used, path.name
        assert "Console().print" not in used, path.name


def test_a_page_of_such_names(folder):
    name = f"{HOSTILE}.json".replace("/", "")
    Path(name).write_bytes((GOLDEN / "calibration_v2.json").read_bytes())
    assert invoke("report", name, "sizes.npz", "-o", "page.html").exit_code == 0
    page = Path("page.html").read_text()
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(page)
