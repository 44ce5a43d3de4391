"""Training steps of several kinds, as users write them, each as a workload: what a calibration must hold for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from crystals import alignn_graphs, prototypes
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nodebudget.frameworks import load_dgl, require

ELEMENTS = 100
GAUSSIANS = 40

Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

adamw: Optimizer = functools.partial(torch.optim.AdamW, lr=1e-3)
sgd: Optimizer = functools.partial(torch.optim.SGD, lr=1e-3)
momentum: Optimizer = functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9)


@functools.cache
def crystal_graphs(index: int, **options: Any) -> tuple[Any, Any]:
    """alignn's graph and line graph of a prototype."""
    return alignn_graphs(prototypes()[index], atom_features="cgcnn", **options)


@functools.cache
def pyg_graph(index: int, **options: Any) -> Any:
    """The same graph as PyTorch Geometric's `Data`: x[nodes], edge_index[2, edges], edge_attr[edges], y[1]."""
    graph, _ = crystal_graphs(index, **options)
    return require("torch_geometric.data").Data(
        x=torch.tensor(prototypes()[index].atomic_numbers),
        edge_index=torch.stack(graph.edges()).long(),
        edge_attr=graph.edata["r"].norm(dim=1),
        y=torch.tensor([float(index)]),
        num_nodes=graph.num_nodes(),
    )


class Alignn:
    """ALIGNN on DGL graphs, trained on the mean squared error.

    Args:
        device: Where the model goes.
        optimizer: Makes the optimizer of parameters.
        set_to_none: What `zero_grad` gets.
        width: Features of the hidden layers.
        layers: ALIGNN layers, and as many on the crystal graph alone.
        autocast: Type that the forward pass computes in, None for the parameters' own.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        optimizer: Optimizer = adamw,
        set_to_none: bool = True,
        width: int = 32,
        layers: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.device, self.set_to_none, self.autocast = torch.device(device), set_to_none, autocast
        self.model = self.make_model(width, layers).to(self.device)
        self.optimizer = optimizer(self.model.parameters())

    def make_model(self, width: int, layers: int) -> nn.Module:
        module = require("alignn.models.alignn")
        shape = {"alignn_layers": layers, "gcn_layers": layers, "hidden_features": width}
        return module.ALIGNN(module.ALIGNNConfig(name="alignn", **shape))

    def batch(self, samples: Sequence[tuple[Any, Any]]) -> tuple[Any, ...]:
        dgl = load_dgl()
        graphs, line_graphs = zip(*samples, strict=True)
        lattices = torch.eye(3).expand(len(samples), 3, 3)
        parts = dgl.batch(graphs), dgl.batch(line_graphs), lattices, torch.zeros(len(samples))
        return tuple(part.to(self.device) for part in parts)

    def loss(self, batch: tuple[Any, ...]) -> Tensor:
        *inputs, target = batch
        return nn.functional.mse_loss(self.model(inputs).reshape(-1), target)

    def step(self, batch: Any) -> None:
        self.optimizer.zero_grad(set_to_none=self.set_to_none)
        with self.precision():
            loss = self.loss(batch)
        loss.backward()
        self.optimizer.step()

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast)


class AtomWise(Alignn):
    """alignn's training on energies and forces: forces are gradients, so that the loss is differentiated twice."""

    def make_model(self, width: int, layers: int) -> nn.Module:
        module = require("alignn.models.alignn_atomwise")
        config = module.ALIGNNAtomWiseConfig(
            name="alignn_atomwise",
            alignn_layers=layers,
            gcn_layers=layers,
            atom_input_features=92,
            hidden_features=width,
            calculate_gradient=True,
        )
        return module.ALIGNNAtomWise(config)

    def loss(self, batch: tuple[Any, ...]) -> Tensor:
        *inputs, energies = batch
        found = self.model(inputs)
        error = nn.functional.l1_loss
        return error(found["out"].reshape(-1), energies) + error(found["grad"], torch.zeros_like(found["grad"]))


class CrystalNet(nn.Module):
    """Crystal graph convolutions of PyTorch Geometric on expanded bond lengths.

    Args:
        width: Features of a node.
        layers: Convolutions.
        checkpointed: Compute each convolution again in the backward pass instead of keeping what it computed.
    """

    def __init__(self, width: int, layers: int, checkpointed: bool) -> None:
        super().__init__()
        make = require("torch_geometric.nn").CGConv
        self.atoms = nn.Embedding(ELEMENTS, width)
        self.register_buffer("centres", torch.linspace(0, 8, GAUSSIANS))
        self.layers = nn.ModuleList(make(width, GAUSSIANS, batch_norm=True) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.checkpointed = checkpointed

    def forward(self, data: Any) -> Tensor:
        nodes = self.atoms(data.x)
        bonds = torch.exp(-((data.edge_attr[:, None] - self.centres) ** 2))
        for layer in self.layers:
            if self.checkpointed:
                nodes = checkpoint(layer, nodes, data.edge_index, bonds, use_reentrant=False)
            else:
                nodes = layer(nodes, data.edge_index, bonds)
        return self.head(require("torch_geometric.nn").global_mean_pool(nodes, data.batch))[:, 0]


class Pyg(Alignn):
    """`CrystalNet` on PyTorch Geometric's graphs. Arguments as `Alignn`, and `checkpointed`."""

    def __init__(self, device: torch.device | str = "cpu", *, checkpointed: bool = False, **options: Any) -> None:
        self.checkpointed = checkpointed
        super().__init__(device, **options)

    def make_model(self, width: int, layers: int) -> nn.Module:
        return CrystalNet(width, layers, self.checkpointed)

    def batch(self, samples: Sequence[Any]) -> Any:
        return require("torch_geometric.data").Batch.from_data_list(list(samples)).to(self.device)

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self.model(batch).float(), batch.y)


class Accumulating(Alignn):
    """ALIGNN with gradients of several micro-batches added up before the optimizer steps.

    A micro-batch is what the device holds at a time, so it is what a budget is for and what the samples of a probe
    make; a step takes a list of them, here the same one again and again.
    """

    micro_batches = 4

    def batch(self, samples: Sequence[tuple[Any, Any]]) -> list[tuple[Any, ...]]:
        return [super().batch(samples)] * self.micro_batches

    def step(self, batch: list[tuple[Any, ...]]) -> None:
        self.optimizer.zero_grad(set_to_none=self.set_to_none)
        for micro_batch in batch:
            (self.loss(micro_batch) / len(batch)).backward()
        self.optimizer.step()
