"""The input of all runs, in a folder: crystals, the graph cache, tokens and the cache of text encodings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from data_loading.text import Encoder, describe, tokenize
from nodebudget.datasets.counting.alignn_builder import dgl_graphs
from nodebudget.datasets.counting.rows import entry_id
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.errors import CrystalError, NodeBudgetError, first_line
from nodebudget.utils.optional_imports import load_dgl, require

CRYSTALS, GRAPHS, TOKENS, ENCODINGS = "crystals.json", "graphs.bin", "tokens.json", "encodings.pt"

Progress = Callable[[str, int, int], None]


def prepare(crystals: Sequence[dict[str, Any]], folder: Path, progress: Progress) -> None:
    """Write the crystals, their graphs with `dgl.save_graphs`, and their texts as tokens and as encodings.

    Args:
        crystals: JARVIS-style dicts.
        folder: Folder of the files.
        progress: Called with the name of a step, the number of items done and the number of all items.

    Raises:
        CrystalError: alignn can't make a graph of a crystal.
        MissingError: DGL, alignn or jarvis-tools is missing.
    """
    dgl = load_dgl()
    graphs: list[Any] = []
    texts = []
    for done, crystal in enumerate(crystals, start=1):
        try:
            graphs.extend(graphs_of(crystal))
        except NodeBudgetError:
            raise
        except Exception as error:  # alignn and jarvis-tools raise many types
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise CrystalError(done - 1, entry_id(crystal) or "", reason) from error
        texts.append(describe(crystal))
        progress("preparing crystals", done, len(crystals))
    (folder / CRYSTALS).write_text(json.dumps(list(crystals)), encoding="utf-8")
    dgl.save_graphs(str(folder / GRAPHS), graphs)
    tokens, vocabulary = tokenize(texts)
    (folder / TOKENS).write_text(json.dumps({"tokens": tokens, "vocabulary": vocabulary}), encoding="utf-8")
    _encode(tokens, vocabulary, folder, progress)


def graphs_of(crystal: dict[str, Any]) -> tuple[Any, Any]:
    """Build alignn's graph and line graph of a JARVIS-style dict."""
    atoms = require("jarvis.core.atoms").Atoms.from_dict(crystal["atoms"])
    graph, line_graph = dgl_graphs(atoms, GraphSettings(), "cgcnn", line_graph=True)
    return graph, line_graph


def _encode(tokens: Sequence[Sequence[int]], vocabulary: int, folder: Path, progress: Progress) -> None:
    encoder, encodings = Encoder(vocabulary).eval(), []
    with torch.no_grad():
        for done, row in enumerate(tokens, start=1):
            ids = torch.tensor([row])
            encodings.append(encoder(ids, torch.ones_like(ids))[0].clone())
            progress("encoding texts", done, len(tokens))
    torch.save(encodings, folder / ENCODINGS)
