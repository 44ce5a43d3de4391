"""Check the licence of every installed package of a pinned set against what `dependencies.toml` allows.

    .venv/bin/python scripts/licenses.py constraints.txt

A licence is what a package declares: its licence expression, else its classifiers, else the first line of its field
`License`. Exit code 1 where one is neither allowed nor excepted.
"""

import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RULES = Path(__file__).with_name("dependencies.toml")

#: Classifiers that do not say which licence.
VAGUE = {"OSI Approved", "Other/Proprietary License"}


def pinned(path: Path) -> list[str]:
    """Return the names that a file of constraints pins."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line.partition("==")[0].strip() for line in lines if line]


def declared(package: metadata.PackageMetadata) -> list[str]:
    """Return the licences that a package names, all of which hold."""
    named = [
        line.rpartition(" :: ")[2] for line in package.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    named = [name for name in named if name not in VAGUE]
    text = package.get("License-Expression") or ""
    if not text and not named:
        text = next(iter((package.get("License") or "").strip().splitlines()), "")
    if text:
        named = [part.strip() for part in re.split(r"\b(?:AND|OR|WITH)\b|[()]", text) if part.strip()]
    return list(dict.fromkeys(named))


def wrong(name: str, rules: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a package's licence; None where nothing is."""
    found = declared(metadata.metadata(name))
    shown = ", ".join(found) or "none"
    if all(licence in rules["allowed"] for licence in found) and found:
        return None
    for entry in rules["exceptions"]:
        if name in entry["packages"] and entry["license"] == shown and entry["reason"]:
            return None
    return f"{name} declares the licence {shown!r}"


def main(path: Path) -> int:
    rules = tomllib.loads(RULES.read_text(encoding="utf-8"))["licenses"]
    here = {re.sub(r"[-_.]+", "-", found.name).lower() for found in metadata.distributions()}
    names = pinned(path)
    absent = [name for name in names if re.sub(r"[-_.]+", "-", name).lower() not in here]
    reasons = [reason for name in names if name not in absent and (reason := wrong(name, rules))]
    for reason in reasons:
        print(f"{path.name}: {reason}; leave it out, or except it in {RULES.name} with a reason", file=sys.stderr)
    missing = f", {len(absent)} not installed: {', '.join(absent)}" if absent else ""
    print(f"{path.name}: licences of {len(names) - len(absent)} packages looked at, {len(reasons)} refused{missing}")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
