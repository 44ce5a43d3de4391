"""One vocabulary: the words that the project once had for itself stay out of code, messages, docs and golden files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import GOLDEN, ROOT

_THINGS = "graphs|nodes|edges|crystals|samples|bytes|batches|seconds|tokens|steps|kB|MB|MiB|GiB|atoms|probes|values"
_EACH = "batch|step|node|edge|graph|second|crystal|epoch|rank|worker|process|machine|sample|atom|line|file|column"

#: Pattern → what to write instead.
PHRASES = {
    rf"\b({_THINGS}) an? ({_EACH})\b": "graphs per batch, bytes per node",
    r"\blevell?(s|ed|ing|ness)\b|\blevel (batches|by|in|in bytes|load)\b|\bare level\b": "balanced",
    r"\bsurvives?\b|\bsurvived\b|\bsurviving\b": "fits",
    r"\b(re)?deal(s|t|ing)?\b": "assign, assignment; re-planned",
    r"\banew\b": "re-planned, reshuffled, again",
    r"\bgraph_room\b|\brooms?\b(?! of the package)": "headroom",
    r"\bat most\b": "maximum, up to",
    r"\bpieces?\b|\bpiecewise\b": "segments",
    r"(?<!max-)(?<!max_)\baffine\b": "max-affine",
    r"\bmoments?\b": "segment, phase, point in time",
    r"\b(be|is|are|for|not|quite|how) sure\b|\bsure to\b": "confidence",
    r"\b(told|tells?|telling) (\w+ )?apart\b": "identifiable, distinguish",
    r"never under by more than": "max underprediction",
    r"\bcaps?\b|\bcapped\b|\bLimits\b": "budget, max_...",
    r"read bit by bit": "streamed",
    r"randomness comes? from|where randomness": "random seed",
    r"\bmix(ed|es)? anew\b": "reshuffle",
    r"to report the memory of": "batch size of the memory report",
    r"holds no (sizes|plan|calibration|table)": "not a size table",
    r"(?<!there )\bis no (kind|file|dataset|number|plan|state|log|record|calibration)\b": "is not a ...",
    r"turn it into one of these": "name the supported formats",
    r"\bwho wants\b": "To ..., do ...",
    r"\bwithout a word\b": "silently",
    r"\bof its own accord\b": "automatically",
    r"\b(Settled|Recipe|Prober|Journal|Effort|Thinned)\b": "BatchCount, PlanConfig, ProbeRunner, ...Checkpoint",
    r"\brelabelled\b|\btravels\b|\bchance_over\b|\bfits_in\b": "shuffle_equal_sizes, picklable, exceedance_probability",
}
#: Quotes words that are gone, and rules of packages.
NOT_LOOKED_AT = {"CHANGELOG.md", "SECURITY.md"}
#: Names that say nothing; a noun says what the value is.
NAMES = {
    *(
        "found",
        "known",
        "kept",
        "there",
        "here",
        "lean",
        "travels",
        "worst",
        "most",
        "room",
        "graph_room",
        "caps",
        "cap",
    ),
    *(
        "limits",
        "own",
        "deal",
        "course",
        "settled",
        "recipe",
        "journal",
        "pieces",
        "piece",
        "sure",
        "level",
        "relabelled",
    ),
}


def groups() -> dict[str, list[Path]]:
    """Return the files of each room, of each folder of the documentation, and the golden files."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    files += [path for path in (ROOT / "nodebudget").rglob("*") if path.suffix in {".py", ".html"}]
    files += [
        path for path in GOLDEN.rglob("*") if path.suffix in {".txt", ".md", ".html", ".tex"} or "help" in path.name
    ]
    by_group: dict[str, list[Path]] = {}
    for path in sorted(files):
        place = path.relative_to(ROOT).parts
        if "_build" in place or place[0] in NOT_LOOKED_AT:
            continue
        if place[0] == "nodebudget":
            group = place[1].removesuffix(".py")
        else:
            group = "/".join(place[:2] if len(place) > 2 else place[:1])
        by_group.setdefault(group, []).append(path)
    return by_group


GROUPS = groups()


def phrases(text: str) -> Iterator[str]:
    # Keys of records that earlier versions wrote stay what they are.
    text = re.sub(r"(?m)^.*# on disk$", "", text)
    for pattern, instead in PHRASES.items():
        for match in re.finditer(pattern, text, flags=0 if "Limits" in pattern or "Settled" in pattern else re.I):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{line}: {match.group()!r} (write: {instead})"


def names(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        own: list[str] = []
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own = [node.id]
        elif isinstance(node, ast.arg):
            own = [node.arg]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own = [node.name]
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own = [node.attr]
        elif isinstance(node, ast.alias) and node.asname:
            own = [node.asname]
        for name in own:
            if name.strip("_") in NAMES:
                yield f"{node.lineno}: the name {name!r}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("group", GROUPS)
def test_the_words_are_those_of_the_field(group: str) -> None:
    offenders = []
    for path in GROUPS[group]:
        text = path.read_text()
        wrong = [*phrases(text), *(names(text) if path.suffix == ".py" else ())]
        offenders += [f"{path.relative_to(ROOT)}:{line}" for line in wrong]
    assert not offenders, "\n" + "\n".join(offenders)
