"""ALIGNN in plain PyTorch, for machines where DGL has no CUDA build for the installed torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nodebudget.datasets.counting.alignn_builder import pure_graphs
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.crystal_samples import SHAPE, CrystalWorkload, Sample, graph_settings_variants

#: Number of features of an atom, by the name of jarvis's feature set.
_FEATURES = {"cgcnn": 92, "atomic_number": 1}


class PureAlignnWorkload(CrystalWorkload):
    """One AdamW training step of `alignn.models.alignn_atomwise_pure.ALIGNNAtomWisePure` on the mean squared error.

    Args:
        device: Where the model goes.
        learning_rate: AdamW's learning rate.
        target: Key of the regression target in a JARVIS dict. A missing target is 0: its value does not change the
            memory of a step.
        calculate_gradient: Also train on forces, as for a force field; their targets are 0.
        atom_features: jarvis's features of an atom: "cgcnn" or "atomic_number".
        graphs: Graph settings: an object of `GraphSettings`, or a table of its arguments. Default: those that alignn
            uses if a config names none. The strategy must be "pure_torch".
        **model: Arguments of alignn's `ALIGNNAtomWisePureConfig`; `alignn_layers` and `gcn_layers` are 4 by default,
            `hidden_features` is 256.

    Raises:
        InputError: Unsupported features or strategy.
        MissingError: alignn is not installed or does not import.
    """

    name = "alignn.models.alignn_atomwise_pure.ALIGNNAtomWisePure"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        learning_rate: float = 1e-3,
        target: str = "target",
        calculate_gradient: bool = False,
        atom_features: str = "cgcnn",
        graphs: GraphSettings | Mapping[str, Any] | None = None,
        **model: Any,
    ) -> None:
        module = require("alignn.models.alignn_atomwise_pure")
        if atom_features not in _FEATURES:
            raise InputError(
                f"atom_features is {atom_features!r}",
                limit=f"one of {', '.join(_FEATURES)}",
                hint="cgcnn is alignn's usual set",
            )
        self._atom_features, self._builder = atom_features, require("alignn.torch_graph_builder")
        config = module.ALIGNNAtomWisePureConfig(
            name="alignn_atomwise_pure",
            atom_input_features=_FEATURES[atom_features],
            calculate_gradient=calculate_gradient,
            **{**SHAPE, **model},
        )
        super().__init__(device, module.ALIGNNAtomWisePure, config, learning_rate, target, _settings(graphs))

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
        """Return variants with other numbers of neighbors and three-body cutoffs, for crystals."""
        return list(graph_settings_variants(self)) if isinstance(item, Mapping) else []

    def step(self, batch: Sequence[Any]) -> None:
        """Run one full training step, with forces if `calculate_gradient` is set."""
        *inputs, target = batch
        self.optimizer.zero_grad()
        output = self.model(tuple(inputs))
        loss = torch.nn.functional.mse_loss(output["out"].reshape(-1), target)
        if self.config["calculate_gradient"]:
            loss = loss + output["grad"].square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _build(self, atoms: Any, graphs: GraphSettings) -> tuple[Any, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # alignn makes tensors in ways that torch warns of
            return pure_graphs(atoms, graphs, self._atom_features)

    def _join(self, graphs: Sequence[Any], line_graphs: Sequence[Any]) -> tuple[Any, Any]:
        return self._builder.batch_torch_graph_pairs([*zip(graphs, line_graphs, strict=True)])  # type: ignore[no-any-return]


def _settings(graphs: GraphSettings | Mapping[str, Any] | None) -> GraphSettings:
    if graphs is None:
        return GraphSettings.from_alignn_config({"model": {"name": "alignn_atomwise_pure"}})
    settings = graphs if isinstance(graphs, GraphSettings) else GraphSettings(**{"strategy": "pure_torch", **graphs})
    if settings.strategy != "pure_torch":
        raise InputError(
            f"graphs of the strategy {settings.strategy!r}",
            limit="pure_torch, the only one that this network is trained on",
            hint="leave the strategy out, or take the workload 'alignn'",
        )
    return settings
