"""Texts of crystals, their tokens, and an encoder of BERT's width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nodebudget.utils.optional_imports import require

#: Floats per encoded token.
WIDTH = 768

#: Maximum number of tokens of a text.
LONGEST = 512

_HEADS = 12
_PART = re.compile(r"[A-Za-z]+|\d|[^\w\s]")


def describe(crystal: dict[str, Any]) -> str:
    """Return jarvis-tools' description of a JARVIS-style crystal, or else its elements and positions."""
    atoms = require("jarvis.core.atoms").Atoms.from_dict(crystal["atoms"])
    try:
        return str(atoms.describe()["desc_2"])
    except Exception:  # a crystal that jarvis-tools can't describe still needs a text
        return " ".join(f"{element} {place}" for element, place in zip(atoms.elements, atoms.frac_coords, strict=True))


def tokenize(texts: Sequence[str]) -> tuple[list[list[int]], int]:
    """Split texts into words, digits and signs; return token ids and the size of the vocabulary (0 is padding)."""
    parts = [_PART.findall(text)[:LONGEST] or ["."] for text in texts]
    numbers = {part: place for place, part in enumerate(sorted({part for text in parts for part in text}), start=1)}
    return [[numbers[part] for part in text] for text in parts], len(numbers) + 1


def pad(rows: Iterable[Tensor]) -> Tensor:
    """Stack rows of different lengths, padded with zeros."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


class Encoder(nn.Module):
    """A frozen layer of BERT's width: tokens (B, L) and mask (B, L) of 1 and 0 to encodings (B, L, 768)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(vocabulary, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, _HEADS, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.requires_grad_(False)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Encode."""
        encodings: Tensor = self.layers(self.words(tokens), src_key_padding_mask=present == 0)
        return encodings
