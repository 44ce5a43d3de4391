"""Draw the layers of the package and what they import, from the source code: docs/architecture.svg.

    python scripts/draw_architecture.py               # writes docs/architecture.svg
    python scripts/draw_architecture.py --json        # prints layers and imports instead

The imports are stored in the picture, so that a test can compare them with the code.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nodebudget"
PICTURE = ROOT / "docs" / "architecture.svg"

#: From the top down: each layer may import those after it.
LAYERS = (
    *("cli", "report", "integrations", "analysis", "monitor", "sampling"),
    *("calibration", "profiling", "workloads", "datasets", "utils", "errors"),
)
#: Width of a box, in units of its height; and the colors of the columns.
WIDTH = 9.5
COLORS = ("#7f4f24", "#b8860b", "#5e3c99", "#0072b2", "#d55e00", "#009e73", "#c51b7d", "#444444")
#: The top of the package holds the public names and imports their modules on first use.
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.name == "errors.py"]
BY_NAME = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def layer_of(path: Path) -> str:
    """Return the layer that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


def imported_names(path: Path) -> Iterator[str]:
    """Yield the name of each imported module, including those under TYPE_CHECKING and those named in strings."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from {node.value.partition(":")[0]} & BY_NAME.keys()  # "module" or "module:attribute"


def imported_files(path: Path) -> set[Path]:
    """Return the files of the package that a file imports."""
    return {BY_NAME[name] for name in imported_names(path) if name in BY_NAME} - {path}


def graph() -> dict[str, list[str]]:
    """Return, for each layer, the layers that it imports, from the top down."""
    arrows: dict[str, set[str]] = {layer: set() for layer in LAYERS}
    for path in FILES:
        arrows[layer_of(path)] |= {layer_of(other) for other in imported_files(path)} - {layer_of(path)}
    return {layer: [other for other in LAYERS if other in arrows[layer]] for layer in LAYERS}


def graph_in(picture: Path) -> dict[str, list[str]]:
    """Return what a picture shows."""
    match = re.search(r"imports: (\{.*?\})</dc:description>", picture.read_text().replace("&quot;", '"'))
    if match is None:
        raise ValueError(f"{picture} was not drawn by scripts/draw_architecture.py")
    imports: dict[str, list[str]] = json.loads(match[1])
    return imports


def job_of(layer: str) -> str:
    """Return the first sentence of a layer's docstring."""
    path = PACKAGE / f"{layer}.py" if layer == "errors" else PACKAGE / layer / "__init__.py"
    return re.split(r"(?<=[.])\s", ast.get_docstring(tree_of(path)) or "")[0].rstrip(".")


def draw(picture: Path) -> None:
    """Draw a box for each layer, and for each imported layer a column with a dot where a layer imports it."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nodebudget", "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    arrows = graph()
    height = {layer: -row for row, layer in enumerate(LAYERS)}
    imported = [layer for layer in reversed(LAYERS) if any(layer in others for others in arrows.values())]
    column = {layer: WIDTH + 0.5 * (place + 1) for place, layer in enumerate(imported)}
    figure, axes = plt.subplots(figsize=(11.5, 8.4))
    for layer in LAYERS:
        _draw_layer(axes, layer, height[layer])
        if arrows[layer]:
            farthest = max(column[other] for other in arrows[layer])
            axes.plot([WIDTH, farthest], [height[layer] + 0.12] * 2, color="#9aa5b1", lw=1, zorder=1)
    for place, (other, x) in enumerate(column.items()):
        color, end = COLORS[place % len(COLORS)], height[other] - 0.14
        dots = [height[layer] + 0.12 for layer in LAYERS if other in arrows[layer]]
        axes.plot([x, x], [dots[0], end], color=color, lw=2, zorder=2)
        axes.plot([x] * len(dots), dots, "o", color=color, ms=7, zorder=3)
        axes.annotate(
            "", (WIDTH, end), (x, end), arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2, "shrinkB": 0}
        )
        axes.text(x - 0.05, dots[0] + 0.25, other, fontsize=8.5, rotation=40)
    axes.set(xlim=(-0.1, max(column.values()) + 0.9), ylim=(-len(LAYERS) + 0.5, 1.15))
    axes.axis("off")
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995)
    figure.savefig(picture, metadata={"Date": None, "Description": f"imports: {json.dumps(arrows)}"})


def _draw_layer(axes: Any, layer: str, y: float) -> None:
    """Draw the box of a layer: name, job and size."""
    from matplotlib.patches import FancyBboxPatch

    shape = {"boxstyle": "round,pad=0,rounding_size=0.1", "fc": "#eef3f8", "ec": "#34495e"}
    axes.add_patch(FancyBboxPatch((0, y - 0.36), WIDTH, 0.72, **shape))
    files = [path for path in FILES if layer_of(path) == layer]
    lines = sum(path.read_text().count("\n") for path in files)
    size = f"{len(files)} files, {lines / 1000:.1f}k lines" if len(files) > 1 else f"1 file, {lines / 1000:.1f}k lines"
    axes.text(0.15, y + 0.13, layer, fontsize=12, fontweight="bold", va="center")
    axes.text(WIDTH - 0.15, y + 0.13, size, fontsize=8.5, va="center", ha="right", color="#555555")
    axes.text(0.15, y - 0.17, job_of(layer), fontsize=8.5, va="center", color="#222222")


def main() -> None:
    """Draw, or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print layers and imports, draw nothing")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    if options.json:
        print(json.dumps(graph(), indent=2))
    else:
        draw(options.output)


if __name__ == "__main__":
    main()
