"""The scripts that check the pinned set: its licences, and its known vulnerabilities."""

from __future__ import annotations

import json
import runpy
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from paths import ROOT


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process; return its exit code and what it prints."""

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        out, err = capsys.readouterr()
        code = end.value.code
        return SimpleNamespace(
            returncode=code if isinstance(code, int) else 1,
            stdout=out,
            stderr=err + (code if isinstance(code, str) else ""),
        )

    return call


class TestLicences:
    @pytest.fixture
    def check(self, run, tmp_path, monkeypatch):
        """Check one installed package that declares these lines."""

        def call(name, *lines):
            folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
            folder.mkdir()
            head = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0"]
            (folder / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
            (tmp_path / "pins.txt").write_text(f"# a comment\n{name}==1.0\n")
            monkeypatch.syspath_prepend(str(tmp_path))
            return run("licenses.py", tmp_path / "pins.txt")

        return call

    @pytest.mark.parametrize(
        "lines",
        [
            ["License-Expression: (MIT OR Apache-2.0) AND BSD-3-Clause"],
            ["License: long and vague", "Classifier: License :: OSI Approved :: MIT License"],
            ["Classifier: License :: OSI Approved", "License: MIT"],
        ],
    )
    def test_allowed(self, check, lines):
        done = check("a-package", *lines)
        assert done.returncode == 0, done.stderr
        assert "licences of 1 packages looked at, 0 refused" in done.stdout

    @pytest.mark.parametrize(
        ("lines", "shown"),
        [
            ([], "'none'"),
            (["License: Mine alone"], "'Mine alone'"),
            (["License-Expression: MIT AND AGPL-3.0-only"], "'MIT, AGPL-3.0-only'"),
            (["Classifier: License :: Other/Proprietary License"], "'none'"),
        ],
    )
    def test_not_allowed(self, check, lines, shown):
        done = check("a-package", *lines)
        assert done.returncode == 1
        assert f"a-package declares the licence {shown}; leave it out, or except it" in done.stderr

    @pytest.mark.parametrize(
        ("expression", "code"), [("MPL-2.0 AND (Apache-2.0 OR MIT)", 0), ("MPL-2.0 AND AGPL-3.0-only", 1)]
    )
    def test_an_exception_holds_for_the_licence_that_it_names(self, check, expression, code):
        assert check("orjson", f"License-Expression: {expression}").returncode == code

    def test_a_package_that_is_not_installed_is_named(self, run, tmp_path):
        (tmp_path / "pins.txt").write_text("not-there==1.0\n")
        assert "1 not installed: not-there" in run("licenses.py", tmp_path / "pins.txt").stdout

    def test_each_exception_has_a_reason(self):
        tomllib = pytest.importorskip("tomllib")
        rules = tomllib.loads((ROOT / "scripts" / "dependencies.toml").read_text())
        assert all(entry["reason"] for entry in rules["licenses"]["exceptions"])
        assert all(rules["vulnerabilities"]["ignored"].values())


class Service(BaseHTTPRequestHandler):
    """Answers as the OSV service does, and knows one vulnerability."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        package = {"name": "rotten", "ecosystem": "PyPI"}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}]
        known = {"id": "OSV-1", "summary": "eats files", "affected": [{"package": package, "ranges": ranges}]}
        body = json.dumps({"vulns": [known]} if asked == "rotten" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class TestVulnerabilities:
    @pytest.fixture(autouse=True)
    def pip_audit(self):
        pytest.importorskip("pip_audit", reason="pip-audit is not installed")

    @pytest.fixture
    def service(self):
        with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
            server.shutdown()

    @pytest.fixture
    def audit(self, run, tmp_path):
        def call(pins, url, *options):
            (tmp_path / "pins.txt").write_text(pins)
            cache = ["--cache-dir", tmp_path / "cache"]
            return run("audit.py", tmp_path / "pins.txt", "-s", "osv", "--osv-url", url, *cache, *options)

        return call

    def test_none_known(self, audit, service):
        done = audit("fresh==1.0\nripe==2.0\n", service)
        assert (done.returncode, done.stdout) == (0, "pins.txt: 0 known vulnerabilities in 2 packages\n"), done.stderr

    def test_one_known(self, audit, service):
        done = audit("fresh==1.0\nrotten==2.0\n", service)
        assert done.returncode == 1
        assert done.stderr == "rotten 2.0: OSV-1, mended in 2.1\n"
        assert audit("rotten==2.0\n", service, "--ignore-vuln", "OSV-1").returncode == 0

    def test_nobody_to_ask_is_no_failure(self, audit):
        done = audit("fresh==1.0\n", "http://127.0.0.1:9/v1/query")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("pins.txt: could not ask for known vulnerabilities: ")
        assert done.stdout.count("\n") == 1

    def test_wrong_pins_are_a_failure(self, audit, service):
        done = audit("= not a pin =\n", service)
        assert done.returncode == 1
        assert done.stderr.startswith("pins.txt: pip-audit failed: ")
