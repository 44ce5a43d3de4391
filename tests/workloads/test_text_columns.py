"""Crystals with a text: the example of the documentation, calibrated, packed, trained and monitored."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from crystals import entries
from paths import ROOT
from shown import folder_of_a_page, run_command, run_page
from torch.utils.data import DataLoader

from nodebudget import Calibration, MemoryMonitor, NodeBudgetSampler
from nodebudget.calibration.calibrate import CalibrationConfig, calibrate
from nodebudget.datasets.counting.tokens import TokenCounter
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.errors import InputError
from nodebudget.monitor.batch_sizes import sizes_of
from nodebudget.monitor.log_reader import read_run
from nodebudget.profiling.open import open_probe
from nodebudget.workloads.alignn import AlignnWorkload

PAGE = ROOT / "docs" / "howto" / "text.md"
TOKENS = 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which all blocks of the page have run."""
    with folder_of_a_page(tmp_path_factory.mktemp("text")) as place:
        (place / "crystals.json").write_text(json.dumps(entries(most=4, count=32)))
        run_page(PAGE, place)
        yield place


@pytest.fixture(scope="module")
def page(folder):
    """The module of the page."""
    import multimodal

    return multimodal


@pytest.fixture(scope="module")
def workload(page):
    torch.manual_seed(0)
    return page.Multimodal(torch.device("cpu"))


@pytest.fixture(scope="module")
def dataset(workload, folder):
    return [workload.sample(item) for item in open_data(folder / "texts.json")]


@pytest.fixture(scope="module")
def sizes(workload, dataset):
    return measure(dataset, size_of=workload.size_of)


def test_tokens_are_sizes_of_the_samples(workload, dataset, sizes):
    lengths = [len(workload.size_of._encode(text)) for _, _, text, _ in dataset]
    assert max(lengths) > min(lengths) > 100
    assert sizes["tokens"].tolist() == [-(-length // 32) * 32 for length in lengths]
    assert (sizes["token_pairs"] == sizes["tokens"] ** 2).all()
    assert {"nodes", "edges", "line_edges"} < set(sizes.columns)


def test_the_calibration_predicts_steps_that_it_has_not_seen(folder):
    record = Calibration.load(folder / "calibration.json")
    assert record.holdout.n == 8
    assert record.holdout.mape <= 0.01
    assert record.holdout.max_under <= 0.02
    assert record.coefficient("tokens") > 0
    assert record.coefficient("token_pairs") > 0
    assert record.coefficient("line_edges") > 0


def test_batches_keep_the_caps_and_training_steps_are_as_predicted(folder, page, workload, dataset, sizes, tmp_path):
    calibration = Calibration.load(folder / "calibration.json")
    memory = 60 * 2**20
    sampler = NodeBudgetSampler(sizes, calibration=calibration, memory=memory, max_columns={"tokens": TOKENS})
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=page.collate)
    monitor = MemoryMonitor(
        tmp_path / "run.jsonl",
        calibration=calibration,
        sizes=workload.size_of.of_batch,
        model=workload.model,
        optimizer=workload.optimizer,
        trace=True,
    )
    for batch in monitor.watch(loader):
        workload.step(batch)
    monitor.close()
    steps = read_run(monitor.path).steps
    assert len(steps) == len(sampler) >= 4
    assert sum(step["sizes"]["graphs"] for step in steps) == len(dataset)
    for step, batch in zip(steps, sampler.plan.rank_batches(0), strict=True):
        assert step["sizes"] == sizes.totals(batch)
        assert step["sizes"]["tokens"] <= TOKENS
        assert step["predicted"] <= memory
    # The first step has no optimizer state yet.
    for step in steps[1:]:
        assert step["measured"] == pytest.approx(step["predicted"], rel=0.01)
    assert max(step["sizes"]["tokens"] for step in steps) > 0.75 * TOKENS


def test_the_pages_own_run_counted_tokens_and_predicted(folder):
    steps = read_run(folder / "run.jsonl").steps
    assert all(step["sizes"]["tokens"] % 32 == 0 and step["predicted"] > 0 for step in steps)
    assert "tokens" in run_command(["nodebudget", "monitor", str(folder / "run.jsonl")])


def test_padding_to_the_longest_is_no_sum_and_the_calibration_tells(workload, dataset, sizes):
    text = workload.model.text
    text.padded = lambda lengths: [max(lengths)] * len(lengths)
    try:
        config = CalibrationConfig(probes=15, max_graphs=12)
        with pytest.warns(UserWarning, match="explain the memory of held-out steps to"):
            calibration = calibrate(workload, dataset, sizes, open_probe("cpu"), config=config)
    finally:
        del text.padded
    assert calibration.holdout.mape > 0.02
    assert calibration.bound.margin(0.0, 0.99) > 0.05


def test_other_graphs_of_a_crystal_have_its_tokens():
    crystals = entries(most=4, count=16)
    for place, crystal in enumerate(crystals):
        crystal["text"] = "a word " * (place % 5 + 1)
    sizes = measure(crystals, size_of=TokenCounter(str.split))
    workload = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8)
    assert workload.variants(crystals[0])
    calibration = calibrate(
        workload, crystals, sizes, open_probe("cpu"), config=CalibrationConfig(probes=15, max_graphs=6)
    )
    assert "tokens" in calibration.columns
    assert all(entry.sizes["tokens"] > 0 for entry in calibration.observations)
    # The model does not read them.
    assert calibration.coefficient("tokens") < 0.01 * calibration.coefficient("line_edges")
    assert calibration.holdout.mape < 0.02


class TestTokenCounter:
    @pytest.mark.parametrize(
        "tokenizer",
        [
            str.split,
            lambda text: torch.ones(1, len(text.split())),
            lambda text: {"input_ids": text.split(), "attention_mask": []},
            lambda text: {"input_ids": torch.ones(1, len(text.split()))},
            SimpleNamespace(encode=lambda text: SimpleNamespace(ids=text.split())),
        ],
    )
    def test_any_tokenizer(self, tokenizer):
        assert TokenCounter(tokenizer)("three words here") == {"tokens": 3}

    @pytest.mark.parametrize("sample", ["a b", {"text": "a b", "atoms": {}}, (object(), object(), "a b", 1.0)])
    def test_any_sample(self, sample):
        assert TokenCounter(str.split)(sample) == {"tokens": 2}

    @pytest.mark.parametrize("batch", [["a b", "c"], (object(), object(), ["a b", "c"], 1.0), {"text": ("a b", "c")}])
    def test_any_batch(self, batch):
        assert TokenCounter(str.split, multiple=4, pairs=True).of_batch(batch) == {"tokens": 8, "token_pairs": 32}

    def test_long_texts_are_cut(self):
        assert TokenCounter(str.split, longest=3)("a b c d e") == {"tokens": 3}
        assert TokenCounter(str.split, key="words")({"words": "a"}) == {"tokens": 1}

    def test_what_has_no_text(self):
        count = TokenCounter(str.split)
        for sample in ({"atoms": {}}, (1, 2), 3):
            with pytest.raises(InputError, match="has no text"):
                count(sample)
        for batch in (torch.ones(2), (1, 2), {}):
            with pytest.raises(InputError, match="no list of texts"):
                count.of_batch(batch)
        with pytest.raises(InputError, match="is not a tokenizer"):
            TokenCounter(3)
        for wrong in ({"multiple": 0}, {"longest": 0}):
            with pytest.raises(InputError, match="is 0"):
                TokenCounter(str.split, **wrong)


def test_padded_tokens_of_a_batch_are_counted_wherever_they_are(dataset, page):
    graph, line_graph, _, labels = page.collate(dataset[:3])
    encoded = {"input_ids": torch.ones(3, 7, dtype=torch.long), "attention_mask": torch.ones(3, 7)}
    counted = sizes_of((graph, line_graph, encoded, labels))
    assert counted["tokens"] == 21
    assert counted["graphs"] == 3
    assert counted["line_edges"] == line_graph.num_edges()
