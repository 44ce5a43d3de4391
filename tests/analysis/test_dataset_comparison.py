"""Datasets side by side: the guide's two, the statistics of batches, the command."""

import io
import json
import os
import struct

import numpy as np
import pytest
from calibrations import fitted
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from paths import GOLDEN

from nodebudget import SizeTable
from nodebudget.analysis.batch_statistics import (
    GraphCosts,
    exceedance_probability,
    expected_max,
    mean_and_std,
    simulate_max,
)
from nodebudget.analysis.dataset_comparison import compare
from nodebudget.analysis.shapley import Measure, explain, mean_sizes
from nodebudget.cli import main
from nodebudget.errors import InputError
from nodebudget.report.comparison import comparison_report
from nodebudget.report.plots import save_picture
from nodebudget.report.text.render import render


def crystals(graphs, mean, *, neighbours=12, seed=0):
    """Sizes with exactly this mean, as nearest-neighbour graphs have them: `neighbours` edges per node and a
    line-graph edge for each pair of an edge and one that goes on from it."""
    rng = np.random.default_rng(seed)
    nodes = np.maximum(np.rint(rng.lognormal(np.log(mean) - 0.18, 0.6, graphs)).astype(int), 2)
    while (over := nodes.sum() - graphs * mean) != 0:
        changed = rng.choice(np.flatnonzero(nodes > 2), size=min(abs(over), graphs // 2), replace=False)
        nodes[changed] -= np.sign(over)
    return SizeTable.from_counts(nodes, nodes * neighbours, nodes * neighbours**2)


HSE, DFT_3D = crystals(1639, 35), crystals(10_464, 20, seed=1)


def test_the_guides_two_datasets():
    first, second = compare([("hse", HSE), ("dft_3d", DFT_3D)], 64).rows
    assert {name: totals.mean for name, totals in first.totals.items()} == pytest.approx(
        # The guide takes the line graph to have twice the edges; at 12 neighbours it has 12 times as many.
        {"nodes": 2240, "edges": 26_880, "line_edges": 12 * 26_880}
    )
    assert {name: totals.mean for name, totals in second.totals.items()} == pytest.approx(
        {"nodes": 1280, "edges": 15_360, "line_edges": 12 * 15_360}
    )
    assert second.difference["graphs"] == pytest.approx(10_464 / 1639 - 1)
    assert second.difference["nodes"] == pytest.approx(20 / 35 - 1)
    assert second.causes[0].name == "nodes per graph"
    assert second.causes[0].share == pytest.approx(20 / 35 - 1)
    assert "the number of samples makes no difference" in second.sentence


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        (SizeTable.from_counts(HSE["nodes"] * 2, HSE["edges"] * 2, HSE["line_edges"] * 2), "nodes per graph"),
        (SizeTable.from_counts(HSE["nodes"], HSE["edges"] * 2, HSE["line_edges"] * 2), "edges per node"),
        (SizeTable.from_counts(HSE["nodes"], HSE["edges"], HSE["line_edges"] * 2), "line-graph edges per edge"),
    ],
)
@pytest.mark.parametrize("calibration", [None, fitted()])
def test_each_cause_is_found(other, cause, calibration):
    found = compare([("a", HSE), ("b", other)], 64, calibration=calibration).rows[1]
    assert found.causes[0].name == cause
    assert [entry.share for entry in found.causes[1:]] == pytest.approx([0, 0])


sizes = st.lists(st.tuples(*[st.integers(1, 10**4)] * 3), min_size=2, max_size=40).map(
    lambda rows: SizeTable.from_counts(*np.array(rows).T)
)


@given(sizes, sizes, st.integers(1, 50), st.sampled_from([None, fitted()]))
def test_causes_add_up_to_the_difference(first, second, batch_size, calibration):
    measure = Measure.of([first, second], calibration)
    before, after = (measure(min(batch_size, len(table)), mean_sizes(table)) for table in (first, second))
    causes = explain(second, first, batch_size, measure)
    assert sum(cause.share for cause in causes) == pytest.approx(after / before - 1)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(1, 10))
def test_mean_and_spread_of_a_batch_are_those_of_all_subsets(values, batch_size):
    import itertools

    drawn = min(batch_size, len(values))
    totals = [sum(subset) for subset in itertools.combinations(values, drawn)]
    mean, std = mean_and_std(np.array(values, dtype=float), batch_size)
    assert mean == pytest.approx(np.mean(totals))
    assert std == pytest.approx(np.std(totals), abs=1e-6)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 70))
def test_the_worst_batch_is_between_the_mean_one_and_the_largest_graphs(values, batch_size):
    found = GraphCosts.of_size(values).describe(batch_size)
    largest = float(sum(sorted(values)[-batch_size:]))
    for worst in (found.expected_max, expected_max(np.array(values, dtype=float), batch_size)):
        assert found.mean * (1 - 1e-6) - 1e-6 <= worst <= largest * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("batch_size", [16, 64, 256])
@pytest.mark.parametrize("spread", [0.3, 0.8])
def test_the_distribution_of_sums_agrees_with_simulated_epochs(spread, batch_size):
    values = np.random.default_rng(0).lognormal(3, spread, 5000)
    seen = simulate_max(values[:, None], batch_size, 800, np.random.default_rng(1))[:, 0]
    assert expected_max(values, batch_size) == pytest.approx(seen.mean(), rel=0.01)
    for limit in np.quantile(seen, [0.9, 0.97]):
        error = (0.25 / len(seen)) ** 0.5
        assert exceedance_probability(values, batch_size, limit) == pytest.approx((seen > limit).mean(), abs=4 * error)


def test_a_heavy_tail_is_where_the_normal_approximation_is_too_low():
    from scipy.stats import norm

    values = np.random.default_rng(0).pareto(2.5, 5000) + 1
    mean, std = mean_and_std(values, 64)
    limit = float(mean + norm.ppf(0.99 ** (1 / 78)) * std)
    assert exceedance_probability(values, 64, limit) > 0.1


def test_equal_graphs_have_equal_batches():
    found = compare([("a", SizeTable.from_counts([7] * 100))], 16).rows[0].totals["nodes"]
    assert (found.mean, found.std, found.expected_max) == (112, 0, 112)
    assert expected_max(np.full(100, 7.0), 16) == 112


def test_further_columns_are_causes_of_their_own():
    text = {"tokens": HSE["nodes"] * 0 + 10}
    first = SizeTable({**HSE.columns, **text})
    other = SizeTable({**HSE.columns, "tokens": text["tokens"] * 3})
    row = compare([("a", first), ("b", other)], 64).rows[1]
    assert row.difference["tokens"] == pytest.approx(2)
    assert "tokens per graph" in {cause.name for cause in row.causes}


def test_a_dataset_of_less_than_a_batch_says_so():
    small = SizeTable.from_counts([10] * 5)
    row = compare([("a", SizeTable.from_counts([10] * 100)), ("b", small)], 20).rows[1]
    assert row.causes[0].name == "graphs per batch"
    assert "a dataset is smaller than a batch" in row.sentence


@pytest.mark.parametrize(
    ("tables", "batch_size", "words"),
    [
        ([], 64, "no dataset"),
        ([("a", SizeTable.from_counts([]))], 64, "dataset a is empty"),
        ([("a", HSE)], 0, "batch_size is 0"),
        ([("a", HSE)], True, "batch_size is True"),
    ],
)
def test_wrong_input(tables, batch_size, words):
    with pytest.raises(InputError, match=words):
        compare(tables, batch_size)


SMALL = [
    ("small cells", SizeTable.from_counts([10, 20, 30] * 30, [120, 250, 380] * 30, [1400, 3000, 4800] * 30)),
    ("large cells", SizeTable.from_counts([20, 40, 60] * 50, [240, 500, 760] * 50, [2400, 6000, 9000] * 50)),
]


@pytest.mark.parametrize(("name", "calibration"), [("compare", None), ("compare_bytes", fitted())])
def test_text_is_as_it_was_looked_at(name, calibration):
    report = comparison_report(compare(SMALL, 16, calibration=calibration), calibration)
    text = render(report, 80) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NODEBUDGET_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("calibration", [None, fitted()])
def test_the_picture_is_a_png_of_a_readable_size(calibration):
    file = io.BytesIO()
    save_picture(comparison_report(compare(SMALL, 16, calibration=calibration), calibration).draw(), file)
    width, height = struct.unpack(">II", file.getvalue()[16:24])
    assert width > 1000
    assert height > 400


def test_the_picture_shows_the_size_that_all_datasets_have():
    tables = [*SMALL, ("nodes alone", SizeTable.from_counts([5, 10] * 50))]
    found = compare(tables, 16)
    assert found.common == "nodes"
    assert [row.measure for row in found.rows] == ["line_edges", "line_edges", "nodes"]
    assert found.rows[0].drawn.max() <= 16 * 30


def test_the_command(tmp_path):
    HSE.save(tmp_path / "hse.npz")
    DFT_3D.save(tmp_path / "dft.csv")
    fitted().save(tmp_path / "cal.json")
    arguments = ["compare", str(tmp_path / "hse.npz"), str(tmp_path / "dft.csv"), "--batch-size", "64"]
    arguments += ["--calibration", str(tmp_path / "cal.json"), "--plot", str(tmp_path / "sizes.png"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["datasets"]] == ["hse", "dft"]
    row = found["datasets"][0]
    assert row["graphs"] == 1639
    assert row["nodes"]["mean"] == 35
    assert row["per_batch"]["edges"]["mean"] == 26_880
    assert row["predicted_bytes"]["expected_max"] > row["predicted_bytes"]["mean"]
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_the_command_tells_files_of_one_name_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        HSE.save(tmp_path / folder / "sizes.npz")
    arguments = ["compare", *(str(tmp_path / folder / "sizes.npz") for folder in "ab"), "--batch-size", "8"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "the same line-graph edges per batch, within half a percent." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.json", "--batch-size", "64"], "nowhere.json"),
        (["nowhere.json", "--batch-size", "0"], "--batch-size is 0"),
        (["nowhere.json", "--batch-size", "64", "--plot", "no/where.png"], "no folder"),
    ],
)
def test_wrong_input_of_the_command_is_one_sentence_and_exit_2(arguments, words):
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
