"""Padding to a static shape: nothing real changes, and what can't be padded is refused."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from crystals import entries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from nodebudget import InputError, NodeBudgetSampler, SizeTable, check_padding, measure, pad_batch, static_collate
from nodebudget.datasets.counting.graph import count_graph

pytest.importorskip("alignn")
pytest.importorskip("dgl")
pytest.importorskip("torch_geometric")

CRYSTALS = entries(6, 20)
SMALL = {"alignn_layers": 1, "gcn_layers": 1, "hidden_features": 16, "embedding_features": 8}
#: Bonds shorter than these make alignn's energies depend on the whole batch.
OFF = {"use_penalty": False}

Outputs = tuple[torch.Tensor, torch.Tensor | None]


class Case:
    """A network, its samples, how they make a batch, and what it computes of one: for each graph, and for each node."""

    samples: list[Any]
    model: nn.Module

    def batch(self, samples: list[Any]) -> Any:
        raise NotImplementedError

    def outputs(self, batch: Any) -> Outputs:
        raise NotImplementedError

    def targets(self, batch: Any) -> torch.Tensor:
        return batch[-1]

    def sizes(self, sample: Any) -> dict[str, int]:
        return count_graph(sample)


class Pure(Case):
    """alignn's network without DGL."""

    def __init__(self, forces: bool) -> None:
        from nodebudget.workloads.alignn import PureAlignnWorkload

        torch.manual_seed(0)
        more = {"calculate_gradient": forces, "stresswise_weight": 0.1, "use_zbl": False}
        self.workload = PureAlignnWorkload("cpu", **SMALL, **OFF, **more)
        self.model = self.workload.model
        self.samples = [self.workload.sample(crystal) for crystal in CRYSTALS]
        self.forces = forces

    def batch(self, samples: list[Any]) -> Any:
        return self.workload.batch(samples)

    def outputs(self, batch: Any) -> Outputs:
        found = self.model(tuple(batch[:-1]))
        if not self.forces:
            return found["out"].reshape(-1), None
        return found["out"].reshape(-1) + found["stresses"].square().sum(dim=(1, 2)), found["grad"]


class Dgl(Pure):
    """`alignn_atomwise` on DGL graphs, as alignn's default run trains it."""

    def __init__(self, forces: bool) -> None:
        from alignn.models.alignn_atomwise import ALIGNNAtomWise, ALIGNNAtomWiseConfig

        from nodebudget.workloads.alignn import AlignnWorkload

        torch.manual_seed(0)
        self.workload = AlignnWorkload("cpu", alignn_layers=1, gcn_layers=1, hidden_features=8)
        more = {"atom_input_features": 92, "calculate_gradient": forces, "stresswise_weight": 0.1}
        self.model = ALIGNNAtomWise(ALIGNNAtomWiseConfig(name="alignn_atomwise", **SMALL, **OFF, **more))
        self.samples = [self.workload.sample(crystal) for crystal in CRYSTALS]
        self.forces = forces


class Pyg(Case):
    """Networks of PyTorch Geometric."""

    def __init__(self, network: str) -> None:
        from torch_geometric.data import Data
        from torch_geometric.nn import SchNet

        torch.manual_seed(0)
        self.schnet = network == "SchNet"
        rng = np.random.default_rng(0)
        self.samples = [self._data(Data, int(rng.integers(2, 9)), rng) for _ in range(20)]
        if self.schnet:
            self.model = SchNet(16, 16, 2, 8, cutoff=6.0, interaction_graph=self._edges)
        else:
            self.model = Convolutions()

    @staticmethod
    def _data(data: Any, nodes: int, rng: np.random.Generator) -> Any:
        pos = torch.tensor(rng.uniform(0, 4, (nodes, 3)), dtype=torch.float32)
        source, target = torch.where(~torch.eye(nodes, dtype=torch.bool))
        keep = (pos[source] - pos[target]).norm(dim=1) < 4
        numbers = torch.tensor(rng.integers(1, 30, nodes))
        edges = torch.stack([source[keep], target[keep]])
        lengths = (pos[source] - pos[target]).norm(dim=1)[keep]
        return data(z=numbers, pos=pos, edge_index=edges, edge_attr=lengths[:, None], y=torch.tensor([rng.normal()]))

    def _edges(self, pos: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        source, target = self._index
        return self._index, (pos[source] - pos[target]).pow(2).sum(-1).sqrt()

    def batch(self, samples: list[Any]) -> Any:
        from torch_geometric.data import Batch

        return Batch.from_data_list(samples)

    def outputs(self, batch: Any) -> Outputs:
        if not self.schnet:
            return self.model(batch), None
        self._index = batch.edge_index
        pos = batch.pos.detach().requires_grad_()
        energies = self.model(batch.z, pos, batch.batch)[:, 0]
        [forces] = torch.autograd.grad(energies.sum(), pos, create_graph=True)
        return energies, forces

    def targets(self, batch: Any) -> torch.Tensor:
        return batch.y

    def sizes(self, sample: Any) -> dict[str, int]:
        return {name: size for name, size in count_graph(sample).items() if name != "line_edges"}


class Convolutions(nn.Module):
    """Crystal graph convolutions with LayerNorm per graph."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import CGConv
        from torch_geometric.nn.norm import LayerNorm

        self.atoms = nn.Embedding(100, 16)
        self.layers = nn.ModuleList(CGConv(16, 1) for _ in range(2))
        self.norm = LayerNorm(16, mode="node")
        self.head = nn.Linear(16, 1)

    def forward(self, data: Any) -> torch.Tensor:
        from torch_geometric.nn import global_add_pool

        nodes = self.atoms(data.z)
        for layer in self.layers:
            nodes = self.norm(layer(nodes, data.edge_index, data.edge_attr))
        return self.head(global_add_pool(nodes, data.batch))[:, 0]


CASES: dict[str, Callable[[], Case]] = {
    "alignn pure": lambda: Pure(forces=False),
    "alignn pure, forces": lambda: Pure(forces=True),
    "alignn_atomwise, forces": lambda: Dgl(forces=True),
    "SchNet": lambda: Pyg("SchNet"),
    "CGConv": lambda: Pyg("CGConv"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # alignn's own
        return CASES[request.param]()


def total(case: Case, samples: list[Any]) -> dict[str, int]:
    sizes = [case.sizes(sample) for sample in samples]
    return {"graphs": len(samples), **{name: sum(size[name] for size in sizes) for name in sizes[0]}}


def train(case: Case, batch: Any, mask: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Return the loss, outputs of real graphs, forces of real nodes, and the gradients of all parameters in one."""
    case.model.zero_grad()
    out, forces = case.outputs(batch)
    nodes = out.new_zeros(0, 3) if forces is None else forces
    error = (out - case.targets(batch)).square()
    if mask is None:
        mask, real = torch.ones(len(out), dtype=torch.bool), len(nodes)
    else:
        real = int(mask[node_graphs(batch)].sum())
    loss = error[mask].mean() + (nodes[:real].square().mean() if forces is not None else 0)
    loss.backward()
    grads = [parameter.grad.flatten() for parameter in case.model.parameters() if parameter.grad is not None]
    return loss.detach(), out[mask].detach(), nodes[:real].detach(), torch.cat(grads)


def node_graphs(batch: Any) -> torch.Tensor:
    """Return the graph of each node."""
    if hasattr(batch, "ptr"):
        return batch.batch
    counts = batch[0].batch_num_nodes
    counts = counts() if callable(counts) else counts
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def close(one: torch.Tensor, other: torch.Tensor, part: float = 1e-5) -> bool:
    """Return whether they are equal up to a part of them, or, where symmetry makes them zero, up to rounding."""
    rounding = 1e-7 if one.dtype == torch.float32 else 1e-12
    return bool((one - other).norm() <= part * one.norm() + rounding)


def as_double(value: Any) -> Any:
    """Return a batch with all real numbers in float64."""
    if torch.is_tensor(value):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(map(as_double, value))
    if hasattr(value, "ptr"):
        return value.apply(as_double)
    for data in (value.ndata, value.edata):
        data.update({name: as_double(values) for name, values in data.items()})
    return value


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_padding_changes_nothing_real(case: Case, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(case.samples) - 1), min_size=2, max_size=6))
    samples = [case.samples[place] for place in places]
    sizes = total(case, samples)
    graphs = data.draw(st.integers(1, 4))
    more = {"graphs": graphs, "nodes": graphs + data.draw(st.integers(1, 20)), "edges": data.draw(st.integers(1, 90))}
    more["line_edges"] = data.draw(st.integers(0, 300))
    shape = {name: size + more[name] for name, size in sizes.items()}
    plain = train(case, case.batch(samples), None)
    batch, mask = pad_batch(case.batch(samples), shape)
    assert mask.tolist() == [True] * len(samples) + [False] * graphs
    assert shape_of(batch) == {name: size for name, size in shape.items() if name in shape_of(batch)}
    padded = train(case, batch, mask)
    for name, before, after in zip(("loss", "outputs", "forces", "gradients"), plain, padded, strict=True):
        assert torch.isfinite(after).all()
        # Forces are differences of much larger numbers.
        assert close(before, after, 1e-4 if name == "forces" else 1e-5), (name, before, after)


def test_padding_is_exact_but_for_rounding(case: Case) -> None:
    samples = case.samples[:5]
    shape = {name: size + (2 if name == "graphs" else 9) for name, size in total(case, samples).items()}
    case.model.double()
    try:
        plain = train(case, as_double(case.batch(samples)), None)
        batch, mask = pad_batch(as_double(case.batch(samples)), shape)
        for before, after in zip(plain, train(case, batch, mask), strict=True):
            assert close(before, after, 1e-12)
    finally:
        case.model.float()


def shape_of(batch: Any) -> dict[str, int]:
    if hasattr(batch, "ptr"):
        nodes, edges = len(batch.z), batch.edge_index.shape[1]
        assert len(batch.batch) == nodes == int(batch.ptr[-1])
        assert len(batch.edge_attr) == edges
        assert len(batch.y) == batch.num_graphs == len(batch.ptr) - 1
        return {"graphs": batch.num_graphs, "nodes": nodes, "edges": edges}
    graph, line_graph, *rest = batch
    sizes = count_graph((graph, line_graph))
    assert {len(part) for part in rest} == {graph.batch_size}
    return {"graphs": graph.batch_size, **sizes}


def test_a_loader_gives_out_padded_batches_of_one_shape(case: Case) -> None:
    sizes = [case.sizes(sample) for sample in case.samples]
    table = SizeTable({name: np.array([size[name] for size in sizes]) for name in sizes[0]})
    sampler = NodeBudgetSampler(table, graphs_per_step=6, pack="static")
    # A node more: padding nodes with positions must be two where they have edges.
    shapes = [{**shape, "nodes": shape["nodes"] + 1} for shape in sampler.shapes]
    collate = static_collate(case.batch, shapes, case.model)
    loader = DataLoader(case.samples, batch_sampler=sampler, collate_fn=collate)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        real = 0
        for (batch, mask), number in zip(loader, sampler.plan.shapes, strict=True):
            assert shape_of(batch) == {name: shapes[number][name] for name in shape_of(batch)}
            real += int(mask.sum())
        assert real == len(case.samples)


def test_workers_pad_as_well() -> None:
    case = Pyg("CGConv")
    shape = {"graphs": 6, "nodes": 80, "edges": 400}
    batches = [list(range(5)), list(range(5, 10))]
    collate = static_collate(collate_pyg, shape)
    assert pickle.loads(pickle.dumps(collate))(case.samples[:5])[1].sum() == 5
    for batch, mask in DataLoader(case.samples, batch_sampler=batches, collate_fn=collate, num_workers=1):
        assert (batch.num_nodes, batch.edge_index.shape[1], mask.tolist()) == (80, 400, [True] * 5 + [False])


def collate_pyg(samples: list[Any]) -> Any:
    from torch_geometric.data import Batch

    return Batch.from_data_list(samples)


def test_padded_batches_of_pyg_can_be_taken_to_pieces() -> None:
    case = Pyg("CGConv")
    batch, _ = pad_batch(case.batch(case.samples[:3]), {"graphs": 5, "nodes": 50, "edges": 300})
    *real, first, second = batch.to_data_list()
    for before, after in zip(case.samples, real, strict=False):
        assert all(torch.equal(before[key], after[key]) for key in ("z", "pos", "edge_index", "edge_attr", "y"))
    assert second.num_nodes == 1
    assert second.num_edges == 0
    assert int(first.edge_index.max()) < first.num_nodes
    apart = first.pos[first.edge_index[0]] - first.pos[first.edge_index[1]]
    assert apart.norm(dim=1).min() > 0.9


def test_padding_of_alignns_graphs_is_sane() -> None:
    case = Pure(forces=True)
    (graph, line_graph, lattice, target), mask = (
        pad_batch(
            {"inputs": case.batch(case.samples[:4]), "names": ["a", "b", "c", "d"]},
            {name: size + 7 for name, size in total(case, case.samples[:4]).items()},
        )[0]["inputs"],
        None,
    )
    assert mask is None
    bonds = graph.edata["r"].norm(dim=1)
    assert float(bonds.min()) > 1
    assert float(bonds.max()) < 9
    assert line_graph.num_nodes == graph.num_edges
    assert (graph.dst[line_graph.src][-7:] >= graph.num_nodes - 7).all()
    cosines = line_graph.edata["h"]
    assert (cosines.abs() <= 1).all()
    # Padding bonds that share an angle are at right angles.
    pairs = graph.edata["r"][line_graph.src[-7:]] * graph.edata["r"][line_graph.dst[-7:]]
    assert pairs.sum(dim=1).abs().min() < 1e-6
    assert len(lattice) == len(target) == 11


class Tokens:
    """A batch of a class of its own."""

    def __init__(self, values: torch.Tensor, graphs: int) -> None:
        self.values, self.graphs, self.device = values, graphs, values.device

    def batch_sizes(self) -> dict[str, int]:
        return {"graphs": self.graphs, "nodes": len(self.values)}

    def pad_to(self, shape: Any) -> Tokens:
        return Tokens(nn.functional.pad(self.values, (0, shape["nodes"] - len(self.values))), shape["graphs"])


def test_other_classes_pad_themselves() -> None:
    batch, mask = pad_batch((Tokens(torch.ones(5), 2), torch.ones(2)), {"graphs": 3, "nodes": 8})
    assert batch[0].values.tolist() == [1] * 5 + [0] * 3
    assert batch[1].tolist() == [1, 1, 1]
    assert mask.tolist() == [True, True, False]


def dgl_batch(**more: Any) -> Any:
    case = Dgl(forces=False)
    return case.batch(case.samples[:3]), total(case, case.samples[:3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": -1}, "the batch has .* nodes .the shape has .* nodes.; pass the sampler.shape"),
        ({"graphs": 0, "nodes": 5, "edges": 5}, "the shape has no place for a padding graph"),
        ({"graphs": 3, "nodes": 2, "edges": 2}, "the shape has no place for a padding graph"),
        ({"graphs": 1, "nodes": 2, "edges": 0, "line_edges": 4}, "the shape has no place for a padding graph"),
    ],
)
def test_shapes_that_do_not_hold_a_batch(change: dict[str, int], words: str) -> None:
    batch, sizes = dgl_batch()
    with pytest.raises(InputError, match=words):
        pad_batch(batch, {name: size + change.get(name, 0) for name, size in sizes.items()})


def test_columns_that_only_one_of_them_has() -> None:
    batch, sizes = dgl_batch()
    shape = {name: size + 9 for name, size in sizes.items()}
    with pytest.raises(InputError, match="the shape has triplets and the batch has none"):
        pad_batch(batch, {**shape, "triplets": 5})
    shape.pop("line_edges")
    with pytest.raises(InputError, match="the batch has line-graph edges and the shape says nothing of them"):
        pad_batch(batch, shape)
    graph, _, *rest = batch
    assert pad_batch((graph, *rest), shape)[0][0].num_edges() == shape["edges"]


def test_batches_that_can_not_be_padded() -> None:
    import dgl

    batch, sizes = dgl_batch()
    shape = {name: size + 9 for name, size in sizes.items()}
    with pytest.raises(InputError, match="a batch of type Tensor without a graph"):
        pad_batch(torch.ones(3), shape)
    with pytest.raises(InputError, match=r"the batch\[4\], a tensor of shape \(7, 2\), can't be padded"):
        pad_batch((*batch, torch.ones(7, 2)), shape)
    with pytest.raises(InputError, match="a batch of no graphs"):
        pad_batch((Tokens(torch.ones(0), 0),), {"graphs": 3, "nodes": 8})
    several = dgl.heterograph({("a", "to", "b"): ([0], [0])})
    with pytest.raises(InputError, match="several types of nodes or edges"):
        pad_batch(several, {"graphs": 2, "nodes": 5, "edges": 5})
    with pytest.raises(InputError, match="a node for each edge of the first"):
        pad_batch((batch[0], batch[0]), shape)
    with pytest.raises(InputError, match=r"indices are torch\.int32"):
        pad_batch(batch[0].int(), {"graphs": 9, "nodes": 900, "edges": 2**31 + 5})
    case = Pyg("SchNet")
    with pytest.raises(InputError, match="collate it first"):
        pad_batch(case.samples[0], {"graphs": 2, "nodes": 50, "edges": 300})
    data = case.batch(case.samples[:2])
    with pytest.raises(InputError, match="one padding node with a position"):
        pad_batch(data, {"graphs": 3, "nodes": data.num_nodes + 1, "edges": data.num_edges + 3})
    data = case.batch(case.samples[:2])
    data.triplet_index = torch.zeros(2, 9, dtype=torch.long)
    with pytest.raises(InputError, match=r"'triplet_index', a tensor of shape \(2, 9\), can't be padded"):
        pad_batch(data, {"graphs": 3, "nodes": data.num_nodes + 2, "edges": data.num_edges + 3})


def test_networks_that_would_see_padding_are_refused() -> None:
    from torch_geometric.nn import CGConv

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for network, where in ((model, "1 (BatchNorm1d)"), (CGConv(4, batch_norm=True), "bn (BatchNorm1d)")):
        with pytest.raises(InputError, match="averages over padding as well") as caught:
            check_padding(network)
        assert where in str(caught.value)
        with pytest.warns(UserWarning, match="padding changes the outputs of real graphs"):
            check_padding(network, exact=False)
    with pytest.raises(InputError, match="averages over padding"):
        static_collate(list, {"graphs": 2, "nodes": 3}, model)
    check_padding(Convolutions())
    from torch_geometric.nn.norm import LayerNorm

    with pytest.raises(InputError, match="may average over padding"):
        check_padding(LayerNorm(4))


def test_settings_of_alignn_that_depend_on_the_whole_batch() -> None:
    case = Pure(forces=True)
    check_padding(case.model)
    model = copy.deepcopy(case.model)
    for setting in ("force_mult_natoms", "include_pos_deriv"):
        model.config = SimpleNamespace(**{**case.model.config.model_dump(), setting: True, "use_zbl": False})
        with pytest.raises(InputError, match=f"{setting} of the model"):
            check_padding(model)
    model.config = SimpleNamespace(**{**case.model.config.model_dump(), "use_penalty": True})
    with pytest.warns(UserWarning, match="where a bond is shorter than 1 Å; set use_penalty=False"):
        check_padding(model)


def test_batch_norm_does_see_padding() -> None:
    """Why it is refused: the law does not hold for it."""
    from torch_geometric.nn import CGConv

    torch.manual_seed(0)
    case = Pyg("CGConv")
    case.model.layers = nn.ModuleList([CGConv(16, 1, batch_norm=True)])
    plain = train(case, case.batch(case.samples[:4]), None)
    padded = train(case, *pad_batch(case.batch(case.samples[:4]), {"graphs": 5, "nodes": 60, "edges": 400}))
    assert not close(plain[1], padded[1])


def test_sizes_measured_from_a_dataset_fit_its_batches() -> None:
    case = Dgl(forces=False)
    sampler = NodeBudgetSampler(measure(case.samples), graphs_per_step=5, pack="static")
    for indices in sampler:
        batch, mask = pad_batch(case.batch([case.samples[index] for index in indices]), sampler.shapes)
        assert shape_of(batch) in sampler.shapes
        assert int(mask.sum()) == len(indices)
