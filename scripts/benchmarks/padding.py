"""What ways to pad texts do to the prediction of memory: ALIGNN beside a small text encoder.

    python scripts/benchmarks/padding.py [--crystals 144] [--probes 30] [--max-graphs 24] [--json]

Takes the model of docs/howto/text.md and lets it pad in other ways. Each is calibrated on the CPU, on AFLOW prototypes
of pymatgen with the descriptions of jarvis-tools, with the sizes of the text or without; a third of the probes is held
out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("DGLBACKEND", "pytorch")

import torch

from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.calibration.memory_model import Calibration
from nodebudget.datasets.counting.tokens import TokenCounter
from nodebudget.datasets.example_crystals import example_datasets
from nodebudget.datasets.measure import measure
from nodebudget.profiling.open import open_probe
from nodebudget.utils.optional_imports import require

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "text.md"

#: As long as the longest text, or longer.
ALWAYS = 400

Lengths = Callable[[list[int]], list[int]]
Way = tuple[str, "Lengths | None", int, str, str]

#: How texts are padded: name, lengths after padding, multiple that sizes are rounded up to, sizes, what is special.
WAYS: list[Way] = [
    ("the longest of the batch", lambda lengths: [max(lengths)] * len(lengths), 1, "tokens and pairs", ""),
    ("the longest of the batch", lambda lengths: [max(lengths)] * len(lengths), 1, "none", ""),
    ("a multiple of 32, in groups", None, 32, "tokens", ""),
    ("a multiple of 32, in groups", None, 32, "tokens and pairs", ""),
    ("a multiple of 32, in groups", None, 32, "tokens and pairs", "crystals first"),
    ("a multiple of 32, in groups", None, 32, "tokens", "no dropout"),
    ("nothing", lambda lengths: lengths, 1, "tokens and pairs", ""),
    ("the same length always", lambda lengths: [ALWAYS] * len(lengths), 1, "none", ""),
]


def the_page() -> Any:
    """Return the module of the page."""
    code = re.search(r"```python\n# multimodal.py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert code is not None
    Path("multimodal.py").write_text(code[1])
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module("multimodal")


def crystals(count: int) -> Iterator[dict[str, Any]]:
    """Take crystals evenly from the prototypes, and describe them."""
    atoms = require("jarvis.core.atoms").Atoms
    prototypes = [crystal for part in example_datasets().values() for crystal in part]
    for place in range(count):
        crystal = prototypes[place * len(prototypes) // count]
        yield {**crystal, "text": atoms.from_dict(crystal["atoms"]).describe()["desc_2"]}


class CrystalsFirst(torch.nn.Module):
    """The page's model, but the texts are encoded when the crystals are done."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, graph: Any, line_graph: Any, texts: list[str]) -> Any:
        """Compute the crystals, then all else with what they gave."""
        made = self.model.crystal((graph, line_graph, None))
        with patch.object(self.model.crystal, "forward", lambda _: made):
            return self.model(graph, line_graph, texts)


def calibrated(page: Any, data: list[Any], way: Way, config: CalibrationConfig) -> Calibration:
    """Calibrate one way to pad."""
    _, padded, multiple, sizes, special = way
    torch.manual_seed(0)
    workload = page.Multimodal(torch.device("cpu"))
    text = workload.model.text
    if padded is not None:
        text.padded = padded
    if special == "no dropout":
        for layer in text.layers.layers:
            layer.self_attn.dropout = layer.dropout.p = layer.dropout1.p = layer.dropout2.p = 0.0
    if special == "crystals first":
        workload.model = CrystalsFirst(workload.model)
    count = TokenCounter(text.tokenizer, multiple=multiple, pairs=sizes == "tokens and pairs")
    table = measure(data, size_of=None if sizes == "none" else count)
    return calibrate(workload, data, table, open_probe("cpu"), config=config)


def row(way: Way, calibration: Calibration) -> dict[str, Any]:
    """Return what a calibration says of a way."""
    margin = float(calibration.bound.margin(0.0, 0.99))
    name, _, _, sizes, special = way
    about = {"padded to": name + (f" ({special})" if special else ""), "sizes": sizes}
    return {**about, "error": calibration.holdout.mape, "under": calibration.holdout.max_under, "margin": margin}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crystals", type=int, default=144)
    parser.add_argument("--probes", type=int, default=30)
    parser.add_argument("--max-graphs", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = CalibrationConfig(probes=options.probes, max_graphs=options.max_graphs)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        items = list(crystals(options.crystals))
        Path("texts.json").write_text(json.dumps(items))
        page = the_page()
        data = [page.Multimodal(torch.device("cpu")).sample(item) for item in items]
        rows = [row(way, calibrated(page, data, way, config)) for way in WAYS]
        os.chdir("/")
    if options.json:
        print(json.dumps(rows))
        return
    print("| texts are padded to | sizes of the text | error | under | margin |\n| --- | --- | --- | --- | --- |")
    for entry in rows:
        numbers = " | ".join(f"{entry[name]:.2%}" for name in ("error", "under", "margin"))
        print(f"| {entry['padded to']} | {entry['sizes']} | {numbers} |")


if __name__ == "__main__":
    main()
