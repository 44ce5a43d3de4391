"""The training step of the study, in plain PyTorch, so that it runs on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from data_loading.loading import Batch, Samples
from data_loading.setup import Setup
from data_loading.text import WIDTH, Encoder, pad

_ATOM, _HIDDEN, _LAYERS = 92, 64, 2


class Network(nn.Module):
    """Message passing between pairs of bonds, then from bonds to atoms, as in ALIGNN, plus the text."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.atoms, self.bonds = nn.Linear(_ATOM, _HIDDEN), nn.Linear(3, _HIDDEN)
        self.angles, self.text = nn.Linear(1, _HIDDEN), nn.Linear(WIDTH, _HIDDEN)
        self.layers = nn.ModuleList(nn.Linear(_HIDDEN, _HIDDEN) for _ in range(_LAYERS))
        self.head = nn.Linear(_HIDDEN, 1)

    def forward(self, batch: Batch, text: Tensor) -> Tensor:
        """Return a prediction for each graph, shape (graphs,); `text` has shape (graphs, 768)."""
        bonds, angles = self.bonds(batch["bonds"]), self.angles(batch["angles"][:, None])
        for layer in self.layers:
            pairs = bonds.index_select(0, batch["line_source"]) + bonds.index_select(0, batch["line_target"]) + angles
            message = nn.functional.silu(layer(pairs))
            bonds = bonds + torch.zeros_like(bonds).index_add(0, batch["line_target"], message)
        atoms = self.atoms(batch["atoms"]).index_add(0, batch["target"], bonds)
        graphs = self.text(text).index_add(0, batch["graph_of"], atoms)
        prediction: Tensor = self.head(graphs)[:, 0]
        return prediction


class Trainer:
    """A model, its optimizer and one training step, with a text encoder if the setup needs one.

    Args:
        setup: What to train with.
        samples: The dataset.
    """

    def __init__(self, setup: Setup, samples: Samples) -> None:
        self.device = torch.device(setup.device)
        self._encodings = samples.encodings if setup.text == "on device" else []
        parts: dict[str, nn.Module] = {"network": Network()}
        if setup.text == "encoded":
            parts["encoder"] = Encoder(samples.vocabulary).eval()
        self._parts = nn.ModuleDict(parts).to(self.device)
        self.model: nn.Module = self._parts
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def batch(self, samples: Any) -> Batch:
        """Copy a batch to the device; on the CPU make a copy in host memory."""
        copy = self.device.type == "cpu"
        tensors = {name: value for name, value in samples.items() if isinstance(value, Tensor)}
        batch = {name: value.to(self.device, non_blocking=True, copy=copy) for name, value in tensors.items()}
        if "places" in samples:
            batch["encodings"] = pad(self._encodings[place] for place in samples["places"])
        return batch

    def step(self, batch: Batch) -> None:
        """Run one training step on a batch on the device."""
        self.optimizer.zero_grad()
        predicted = self._parts["network"](batch, self._text(batch))
        nn.functional.mse_loss(predicted, batch["labels"]).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _text(self, batch: Batch) -> Tensor:
        """Return the mean encoding of each text, shape (graphs, 768)."""
        encodings = batch.get("encodings")
        if encodings is None:
            with torch.no_grad():
                encodings = self._parts["encoder"](batch["tokens"], batch["present"])
        present = batch["present"][:, :, None]
        mean: Tensor = (encodings * present).sum(1) / present.sum(1)
        return mean
