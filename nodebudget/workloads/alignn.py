"""ALIGNN of the package alignn as a workload: on DGL graphs, or in plain PyTorch."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from nodebudget.datasets.counting.alignn_builder import dgl_graphs, pure_graphs
from nodebudget.datasets.counting.crystal import to_atoms
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.datasets.measure import measure
from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import InputError
from nodebudget.utils.checks import check_choice
from nodebudget.utils.optional_imports import check_dgl_on, load_dgl, require
from nodebudget.workloads.edge_subsampling import edge_subsampled_variants

#: A crystal graph, its line graph, lattice[3, 3] in Å and target[].
Sample = tuple[Any, Any, torch.Tensor, torch.Tensor]

_FEATURES = {"cgcnn": 92, "atomic_number": 1}  #: Number of features of an atom, by the name of jarvis's feature set.

#: Arguments of alignn's configs by default: the settings that ALIGNN is usually trained with.
_SHAPE = {"alignn_layers": 4, "gcn_layers": 4, "hidden_features": 256}


class _CrystalWorkload(ABC):
    """What the two networks have in common; a subclass builds and joins the graphs and runs the step."""

    def __init__(
        self, device: torch.device | str, network: Any, config: Any, learning_rate: float, target: str, graphs: Any
    ) -> None:
        self.device, self.target = torch.device(device), target
        self.graphs: GraphSettings = graphs
        self.config: dict[str, Any] = config.model_dump()
        self.model: torch.nn.Module = network(config).to(self.device)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate)

    def from_crystal(self, item: Mapping[str, Any], graphs: GraphSettings) -> Sample:
        """Turn a JARVIS dict into a sample, with these graph settings."""
        atoms = to_atoms(item)
        graph, line_graph = self._build(atoms, graphs)
        value = item.get(self.target, 0.0)
        label = torch.tensor(float(value) if isinstance(value, (int, float)) else 0.0)
        return graph, line_graph, torch.tensor(atoms.lattice_mat, dtype=torch.float32), label

    def batch(self, samples: Sequence[Any]) -> tuple[Any, ...]:
        """Collate samples as alignn does: (g, lg, lattice[B, 3, 3], target[B]) on the device."""
        if not samples:
            raise InputError("a batch of no samples", hint="give at least one")
        graphs, line_graphs, lattices, targets = zip(*samples, strict=True)
        parts = (*self._join(graphs, line_graphs), torch.stack(lattices), torch.stack(targets))
        return tuple(part.to(self.device) for part in parts)

    @abstractmethod
    def _build(self, atoms: Any, graphs: GraphSettings) -> tuple[Any, Any]:
        """Build the graph and the line graph of a crystal."""

    @abstractmethod
    def _join(self, graphs: Sequence[Any], line_graphs: Sequence[Any]) -> tuple[Any, Any]:
        """Batch graphs, and line graphs."""


class AlignnWorkload(_CrystalWorkload):
    """One AdamW training step of `alignn.models.alignn.ALIGNN` on the mean squared error.

    Args:
        device: Where the model goes.
        learning_rate: AdamW's learning rate.
        target: Key of the regression target in a JARVIS dict. A missing target is 0: its value does not change the
            memory of a step.
        graphs: Graph settings: an object of `GraphSettings`, or a table of its arguments.
        **model: Arguments of alignn's `ALIGNNConfig`; `alignn_layers` and `gcn_layers` are 4 by default,
            `hidden_features` is 256.

    Raises:
        MissingError: alignn or DGL is not installed or does not import, or DGL can't use the device.
    """

    name = "alignn.models.alignn.ALIGNN"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        learning_rate: float = 1e-3,
        target: str = "target",
        graphs: GraphSettings | Mapping[str, Any] | None = None,
        **model: Any,
    ) -> None:
        if torch.device(device).type == "cuda":
            check_dgl_on(str(device))
        module = require("alignn.models.alignn")
        config = module.ALIGNNConfig(name="alignn", **{**_SHAPE, **model})
        settings = graphs if isinstance(graphs, GraphSettings) else GraphSettings(**(graphs or {}))
        super().__init__(device, module.ALIGNN, config, learning_rate, target, settings)

    def sample(self, item: Any) -> Sample:
        """Turn a JARVIS dict (or a tuple that starts with a graph) into (g, lg, lattice[3, 3], target[])."""
        if isinstance(item, Mapping):
            return self.from_crystal(item, self.graphs)
        graph, *rest = item if isinstance(item, (tuple, list)) else (item,)
        line_graph = rest[0] if rest and hasattr(rest[0], "num_edges") else _line_graph(graph)
        # ALIGNN takes the lattice and does not use it: the unit cell stands for one that is unknown.
        return graph, line_graph, torch.eye(3), torch.zeros(())

    def variants(self, item: Any) -> list[Any]:
        """Return variants with other numbers of neighbors for crystals, with subsampled edges for graphs."""
        return graph_settings_variants(self) if isinstance(item, Mapping) else edge_subsampled_variants(self, [item])

    def step(self, batch: Sequence[Any]) -> None:
        """Run one full training step."""
        *inputs, target = batch
        self.optimizer.zero_grad()
        predicted = self.model(tuple(inputs)).reshape(-1)
        loss = torch.nn.functional.mse_loss(predicted, target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _build(self, atoms: Any, graphs: GraphSettings) -> tuple[Any, Any]:
        return dgl_graphs(atoms, graphs, "cgcnn", line_graph=True)  # type: ignore[no-any-return]

    def _join(self, graphs: Sequence[Any], line_graphs: Sequence[Any]) -> tuple[Any, Any]:
        dgl = load_dgl()
        return dgl.batch(graphs), dgl.batch(line_graphs)


class PureAlignnWorkload(_CrystalWorkload):
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
        check_choice("atom_features", atom_features, tuple(_FEATURES))
        self._atom_features, self._builder = atom_features, require("alignn.torch_graph_builder")
        options = {"atom_input_features": _FEATURES[atom_features], "calculate_gradient": calculate_gradient}
        config = module.ALIGNNAtomWisePureConfig(name="alignn_atomwise_pure", **{**_SHAPE, **options, **model})
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


class FromCrystals(Protocol):
    """A workload that builds graphs of crystals with the settings that it is given."""

    graphs: GraphSettings

    def from_crystal(self, item: Any, graphs: GraphSettings) -> Any:
        """Turn a crystal into a sample, with these graph settings."""


class GraphSettingsVariant:
    """Samples of the same crystals with other graph settings."""

    def __init__(self, workload: FromCrystals, graphs: GraphSettings) -> None:
        self._workload, self._graphs = workload, graphs

    def sizes(self, items: Sequence[Any]) -> SizeTable:
        """Measure the crystals with these settings, without training on them."""
        return measure(items, graphs=self._graphs)

    def sample(self, item: Any) -> Any:
        """Build the graphs with these settings."""
        return self._workload.from_crystal(item, self._graphs)


def graph_settings_variants(workload: FromCrystals) -> list[GraphSettingsVariant]:
    """Return variants with other numbers of neighbors, or with other cutoffs if those decide."""
    graphs = workload.graphs
    if graphs.strategy not in ("k-nearest", "pure_torch") or graphs.neighbors is None:
        settings = [replace(graphs, cutoff=graphs.cutoff * factor) for factor in (0.8, 1.1)]
        return [GraphSettingsVariant(workload, variant) for variant in settings]
    counts = sorted({max(1, graphs.neighbors // 3), graphs.neighbors * 3 // 2} - {graphs.neighbors})
    settings = [replace(graphs, neighbors=count) for count in counts]
    if graphs.strategy == "pure_torch" and graphs.three_body_cutoff is not None:
        # Only pairs of close bonds are line-graph edges; without the cutoff there are many more.
        settings.append(replace(graphs, three_body_cutoff=None))
    return [GraphSettingsVariant(workload, variant) for variant in settings]


def _line_graph(graph: Any) -> Any:
    line_graph = graph.line_graph(shared=True)
    if "r" in graph.edata:
        line_graph.apply_edges(require("alignn.graphs").compute_bond_cosines)
    return line_graph


def _settings(graphs: GraphSettings | Mapping[str, Any] | None) -> GraphSettings:
    if graphs is None:
        return GraphSettings.from_alignn_config({"neighbor_strategy": "pure_torch"})
    settings = graphs if isinstance(graphs, GraphSettings) else GraphSettings(**{"strategy": "pure_torch", **graphs})
    check_choice("the strategy of the graphs", settings.strategy, ("pure_torch",))
    return settings
