"""Ask for known vulnerabilities of a pinned set, or say that nobody could be asked.

    .venv/bin/python scripts/audit.py constraints.txt

Further arguments go to pip-audit. Exit code 1 where there are vulnerabilities that `dependencies.toml` does not except,
or where pip-audit fails for another reason than its service.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RULES = Path(__file__).with_name("dependencies.toml")

#: What pip-audit's last lines hold where its service can't be reached.
UNREACHABLE = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ServiceError", "Could not connect")


def ask(pins: Path, options: list[str]) -> list[dict[str, Any]] | str:
    """Return pip-audit's entry for each package, or the reason why there are none.

    Raises:
        SystemExit: pip-audit fails otherwise.
    """
    ignored = tomllib.loads(RULES.read_text(encoding="utf-8"))["vulnerabilities"]["ignored"]
    excepted = [word for name in ignored for word in ("--ignore-vuln", name)]
    how = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), *how, *excepted, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = next(
            (line for line in reversed(done.stderr.splitlines()) if any(map(str.isalpha, line))), "it said nothing"
        )
        if not any(word in done.stderr for word in UNREACHABLE):
            raise SystemExit(f"{pins.name}: pip-audit failed: {last}") from None
        return last[:160]
    return found if any("vulns" in entry for entry in found) else f"the service knows none of {len(found)} packages"


def main(pins: Path, options: list[str]) -> int:
    found = ask(pins, options)
    if isinstance(found, str):
        print(f"{pins.name}: could not ask for known vulnerabilities: {found}")
        return 0
    asked = [entry for entry in found if "vulns" in entry]
    bad = [(entry, vulnerability) for entry in asked for vulnerability in entry["vulns"]]
    for entry, vulnerability in bad:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{entry['name']} {entry['version']}: {vulnerability['id']}, mended in {fixed}", file=sys.stderr)
    unknown = f", {len(found) - len(asked)} not known to the service" if len(asked) < len(found) else ""
    print(f"{pins.name}: {len(bad)} known vulnerabilities in {len(asked)} packages{unknown}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
