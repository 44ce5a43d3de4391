"""Real ALIGNN in plain PyTorch, which needs no DGL: where DGL has no CUDA build for the installed torch, say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nodebudget.datasets.counting.alignn_builder import pure_graphs
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.crystal_samples import Sample, make_sample, other_graphs

#: Features of an atom, by the name of jarvis's set of them.
_FEATURES = {"cgcnn": 92, "atomic_number": 1}


class PureAlignnWorkload:
    """One AdamW training step of `alignn.models.alignn_atomwise_pure.ALIGNNAtomWisePure`.

    Args:
        device: Where the model goes.
        alignn_layers: ALIGNN layers (crystal graph and line graph).
        gcn_layers: Layers on the crystal graph alone.
        hidden_features: Width of the hidden layers.
        learning_rate: AdamW's learning rate.
        target: Key of the regression target in a JARVIS dict; 0 where it is missing, since the value of a
            target does not change what a step needs.
        calculate_gradient: Train on forces too, as a force field: they are taken as 0.
        atom_features: jarvis's features of an atom: "cgcnn" or "atomic_number".
        graphs: Graph settings: an object of `GraphSettings`, or a table of its arguments. By default what
            alignn takes where a run's config names none. The strategy is "pure_torch".
        **model: Further arguments of `ALIGNNAtomWisePureConfig`.

    Raises:
        InputError: The features or the strategy are others.
        MissingError: alignn is not there or does not import.
    """

    name = "alignn.models.alignn_atomwise_pure.ALIGNNAtomWisePure"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        alignn_layers: int = 4,
        gcn_layers: int = 4,
        hidden_features: int = 256,
        learning_rate: float = 1e-3,
        target: str = "target",
        calculate_gradient: bool = False,
        atom_features: str = "cgcnn",
        graphs: GraphSettings | Mapping[str, Any] | None = None,
        **model: Any,
    ) -> None:
        module = require("alignn.models.alignn_atomwise_pure")
        self.builder = require("alignn.torch_graph_builder")
        if atom_features not in _FEATURES:
            raise InputError(
                f"atom_features is {atom_features!r}",
                limit=f"one of {', '.join(_FEATURES)}",
                hint="cgcnn is alignn's usual set",
            )
        self.device = torch.device(device)
        self.target, self.atom_features = target, atom_features
        self.graphs = _settings(graphs)
        config = module.ALIGNNAtomWisePureConfig(
            name="alignn_atomwise_pure",
            alignn_layers=alignn_layers,
            gcn_layers=gcn_layers,
            hidden_features=hidden_features,
            atom_input_features=_FEATURES[atom_features],
            calculate_gradient=calculate_gradient,
            **model,
        )
        self.config = config.model_dump()
        self.model = module.ALIGNNAtomWisePure(config).to(self.device)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate)

    def sample(self, item: Any) -> Sample:
        """Turn a JARVIS dict into (g, lg, lattice[3, 3], target[]); a tuple of alignn's pure dataset is one already."""
        if isinstance(item, Mapping):
            return self.from_crystal(item, self.graphs)
        if isinstance(item, (tuple, list)) and len(item) == 4:
            return tuple(item)
        raise InputError(
            f"a sample of type {type(item).__name__}",
            limit="a JARVIS dict, or (graph, line graph, lattice, target)",
            hint="give the crystals, or alignn's dataset with use_pure_torch=True",
        )

    def variants(self, item: Any) -> list[Any]:
        """Return other neighbour counts and three-body cutoffs, for crystals."""
        return other_graphs(self) if isinstance(item, Mapping) else []

    def from_crystal(self, item: Mapping[str, Any], graphs: GraphSettings) -> Sample:
        """Turn a JARVIS dict into a sample, with these graph settings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # alignn's own ways of making tensors
            return make_sample(item, self.target, lambda atoms: pure_graphs(atoms, graphs, self.atom_features))

    def batch(self, samples: Sequence[Any]) -> tuple[Any, ...]:
        """Collate samples as alignn does: (g, lg, lattice[B, 3, 3], target[B]) on the device."""
        if not samples:
            raise InputError("a batch of no samples", hint="give at least one")
        graphs, line_graphs, lattices, targets = zip(*samples, strict=True)
        pair = self.builder.batch_torch_graph_pairs([*zip(graphs, line_graphs, strict=True)])
        return tuple(part.to(self.device) for part in (*pair, torch.stack(lattices), torch.stack(targets)))

    def step(self, batch: Sequence[Any]) -> None:
        """Run one full training step on the mean squared error; with forces, on theirs too."""
        graph, line_graph, lattice, target = batch
        self.optimizer.zero_grad()
        found = self.model((graph, line_graph, lattice))
        loss = torch.nn.functional.mse_loss(found["out"].reshape(-1), target)
        if self.config["calculate_gradient"]:
            loss = loss + found["grad"].square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def _settings(graphs: GraphSettings | Mapping[str, Any] | None) -> GraphSettings:
    if graphs is None:
        return GraphSettings.from_alignn_config({"model": {"name": "alignn_atomwise_pure"}})
    found = graphs if isinstance(graphs, GraphSettings) else GraphSettings(**{"strategy": "pure_torch", **graphs})
    if found.strategy != "pure_torch":
        raise InputError(
            f"graphs of the strategy {found.strategy!r}",
            limit="pure_torch, the only one that this network is trained on",
            hint="leave the strategy out, or take the workload 'alignn'",
        )
    return found
