"""Budget: what a user gave, checked and turned into whole numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from calibrations import calibration
from hypothesis import given
from hypothesis import strategies as st

from nodebudget.datasets.size_table import SizeTable
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.sampling.budget import BYTES, Budget


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1.5, "5", True, 2**63, [5]])
@pytest.mark.parametrize("name", ["max_nodes", "max_edges", "max_line_edges", "max_graphs"])
def test_absurd_maxima_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is ") as caught:
        Budget.make(**{name: value})
    assert repr(value) in str(caught.value)


def test_no_budget_says_what_to_give() -> None:
    with pytest.raises(InputError, match="give max_nodes"):
        Budget.make()


@pytest.mark.parametrize("given", [{"memory": "40GiB"}, {"calibration": calibration()}])
def test_memory_and_calibration_go_together(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="go together"):
        Budget.make(max_nodes=5, **given)


@pytest.mark.parametrize("memory", ["3 potatoes", "-1GiB", 0, float("nan")])
def test_memory_must_be_an_amount(memory: Any) -> None:
    with pytest.raises(InputError, match="is not an amount of memory"):
        Budget.make(calibration=calibration(), memory=memory)


def test_memory_that_holds_no_graph_does_not_fit() -> None:
    with pytest.raises(DoesNotFitError, match="without any graph"):
        Budget.make(calibration=calibration(fixed=2.0**30), memory="1GiB")


@given(st.integers(1, 2**40), st.floats(0, 1e12), st.integers(0, 2**32 - 1))
def test_bytes_are_never_rounded_over_the_memory(memory: int, fixed: float, seed: int) -> None:
    if fixed >= memory:
        return
    rng = np.random.default_rng(seed)
    known = calibration(fixed, per_graph=float(rng.random() * 100), per_node=float(rng.random() * 1e4))
    sizes = SizeTable.from_counts(rng.integers(1, 100, 20), np.zeros(20), np.zeros(20))
    budget = Budget.make(calibration=known, memory=memory)
    names, items = budget.columns(sizes)
    assert names == (BYTES,)
    whole = int(items.values[0].sum())
    maximum = items.maxima[0]
    assert maximum is not None
    exact = math.fsum(known.graph_bytes(sizes).tolist())
    assert whole >= exact
    if whole <= maximum:
        assert math.fsum([fixed, *known.graph_bytes(sizes).tolist()]) <= memory


def test_columns_of_fractions_keep_their_maximum() -> None:
    sizes = SizeTable.from_counts([1, 1, 1, 1], weight=[0.5, 0.25, 0.25, 1.5])
    names, items = Budget.make(max_columns={"weight": 1.0}).columns(sizes)
    assert names == ("weight",)
    maximum = items.maxima[0]
    assert maximum is not None
    assert items.values[0][:3].sum() <= maximum
    assert items.values[0][1:].sum() > maximum
    assert items.oversized().tolist() == [False, False, False, True]


def test_the_column_that_needs_most_batches_is_balanced() -> None:
    sizes = SizeTable.from_counts([10] * 8, [120] * 8, [1500] * 8)
    assert Budget.make(max_nodes=1000, max_edges=200).columns(sizes)[0] == ("edges", "nodes")
    assert Budget.make(max_nodes=20, max_edges=1200).columns(sizes)[0] == ("nodes", "edges")
    assert Budget.make(max_graphs=4).columns(sizes)[0] == ("line_edges",)
    assert Budget.make(max_graphs=4).columns(sizes, "nodes")[0] == ("nodes",)
    assert Budget.make(max_nodes=20, calibration=calibration(), memory="1GiB").columns(sizes)[0] == (BYTES, "nodes")


def test_a_maximum_of_a_size_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="no column 'line_edges'"):
        Budget.make(max_line_edges=5).columns(SizeTable.from_counts([1]))


def test_a_budget_is_described_in_a_line() -> None:
    budget = Budget.make(max_nodes=2000, max_graphs=64, calibration=calibration(), memory="40GiB")
    assert budget.describe() == "up to 2,000 nodes, 64 graphs, 40.0 GiB"
