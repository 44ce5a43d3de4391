"""Two runs: which settings affect device memory, by how much, and why."""

import importlib.util
import json
import os

import pytest
from alignn_folder import SMALL
from calibrations import fitted
from click.testing import CliRunner
from crystals import entries
from paths import GOLDEN

from nodebudget import SizeTable
from nodebudget.analysis.run_diff.diff import diagnose
from nodebudget.analysis.run_diff.measured import measure_settings
from nodebudget.analysis.run_diff.prefetch import batch_bytes
from nodebudget.analysis.run_diff.rules import rule_for
from nodebudget.analysis.run_diff.runs import RunConfig, read_run_config
from nodebudget.cli import main
from nodebudget.datasets.measure import measure
from nodebudget.datasets.readers.open_dataset import open_data
from nodebudget.errors import DoesNotFitError, InputError
from nodebudget.report.diagnosis import diagnosis_report
from nodebudget.report.text.render import render
from nodebudget.workloads.alignn import AlignnWorkload

FIRST = {
    **{"batch_size": 64, "pin_memory": False, "num_workers": 4, "learning_rate": 0.01, "colour": "red"},
    **{"neighbor_strategy": "k-nearest", "max_neighbors": 12, "random_seed": 1},
    "model": {"hidden_features": 256, "layers": [1, 2]},
}
SECOND = {
    **{"batch_size": 128, "pin_memory": True, "num_workers": 24, "learning_rate": 0.001, "colour": "blue"},
    **{"neighbor_strategy": "k-nearest", "max_neighbors": 12, "random_seed": 2, "read_existing": True},
    "model": {"hidden_features": 192, "layers": [1, 2]},
}

needs_alignn = pytest.mark.skipif(
    not (importlib.util.find_spec("alignn") and importlib.util.find_spec("dgl")), reason="needs alignn and DGL"
)


def found(a, b, **options):
    return diagnose(RunConfig("a", a), RunConfig("b", b), **options)


def by_name(diagnosis):
    return {entry.name: entry for entry in diagnosis.differences}


def write(folder, values, ids=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    if ids is not None:
        (folder / "ids_train_val_test.json").write_text(json.dumps({"id_train": ids, "id_val": [], "id_test": []}))
    return str(folder)


@pytest.fixture
def data(tmp_path):
    """Data of small and of twice as large crystals."""
    paths = []
    for name, factor in (("small", 1), ("large", 2)):
        nodes = [10 * factor, 20 * factor, 30 * factor] * 30
        ids = [f"{name}-{place}" for place in range(len(nodes))]
        table = SizeTable.from_counts(nodes, [12 * n for n in nodes], [144 * n for n in nodes], ids=ids)
        paths.append(table.save(tmp_path / f"{name}.npz"))
    return paths


def test_without_measurement_only_what_is_certain_is_said():
    diagnosis = found(FIRST, SECOND)
    assert [(entry.name, entry.affects_device_memory) for entry in diagnosis.differences] == [
        ("batch_size", None),
        ("model.hidden_features", None),
        ("colour", None),
        ("pin_memory", False),
        ("num_workers", False),
        ("learning_rate", False),
        ("random_seed", False),
        ("read_existing", False),
    ]
    assert all(entry.bytes is None for entry in diagnosis.differences)
    assert diagnosis.likely_cause.startswith(
        "These settings can change device memory: batch_size, model.hidden_features. To measure them, calibrate"
    )


def test_the_guides_three_suspects_are_cleared():
    entries = by_name(found(FIRST, SECOND))
    assert "host memory" in entries["pin_memory"].reason
    assert "right for host memory and wrong for the GPU" in entries["num_workers"].reason
    assert "graphs on the CPU" in entries["read_existing"].reason
    assert entries["read_existing"].a is None


def test_where_nothing_affects_device_memory_it_says_so():
    assert found({"lr": 1}, {"lr": 2}).likely_cause.startswith("None of the differences")
    assert "unknown settings: colour" in found({"colour": 1}, {"colour": 2}).likely_cause


def test_equal_runs():
    diagnosis = found(FIRST, dict(FIRST))
    assert diagnosis.differences == ()
    assert diagnosis.likely_cause == "The two runs have the same settings."


def test_nan_is_equal_to_itself_and_true_is_not_one():
    assert not found({"x": float("nan")}, {"x": float("nan")}).differences
    assert found({"x": True}, {"x": 1}).differences


def test_predicted_bytes_are_attributed_so_that_they_add_up(data):
    calibration = fitted()
    diagnosis = found(FIRST, SECOND, data_a=open_data(data[0]), data_b=open_data(data[1]), calibration=calibration)
    first, second = (
        calibration.predict_bytes(
            graphs=count, nodes=count * nodes, edges=12 * count * nodes, line_edges=144 * count * nodes
        )
        # The data has 90 samples: a batch of 128 has no more.
        for count, nodes in ((64, 20), (90, 40))
    )
    assert diagnosis.predicted_bytes == pytest.approx((first, second), abs=2)
    shares = {entry.name: entry.bytes for entry in diagnosis.differences if entry.bytes is not None}
    assert set(shares) == {"batch_size", "data.nodes per graph"}
    assert sum(shares.values()) == pytest.approx(second - first, abs=2)
    assert diagnosis.likely_cause.startswith("The largest cause is data.nodes per graph (20.0 in A, 40.0 in B): +")
    assert diagnosis.likely_cause.endswith("Not measured: model.hidden_features.")


def test_larger_crystals_are_the_cause(data):
    first, second = (open_data(path) for path in data)
    diagnosis = found(FIRST, {**FIRST, "pin_memory": True}, data_a=first, data_b=second)
    assert diagnosis.differences[0].name == "data.nodes per graph"
    assert (diagnosis.differences[0].a, diagnosis.differences[0].b) == (20, 40)
    assert "+100.0%" in diagnosis.likely_cause
    calibrated = found(FIRST, FIRST, data_a=first, data_b=second, calibration=fitted())
    assert calibrated.predicted_bytes is not None
    one, other = calibrated.predicted_bytes
    assert calibrated.differences[0].bytes == pytest.approx(other - one, abs=2)


def test_waiting_batches_take_host_memory_by_the_guides_formula(data):
    a = {"batch_size": 64, "num_workers": 4}
    batch = 64 * (72 + 20 * 384 + 240 * 64 + 2880 * 20)
    cases = [
        ({"num_workers": 24}, "num_workers", (24 - 4) * 2 * batch),
        ({"num_workers": 0}, "num_workers", -4 * 2 * batch),
        ({"prefetch_factor": 5}, "prefetch_factor", 4 * (5 - 2) * batch),
        ({"pin_memory": True}, "pin_memory", None),
    ]
    for change, name, expected in cases:
        entry = by_name(found(a, {**a, **change}, data_a=open_data(data[0])))[name]
        assert (entry.host_bytes, entry.bytes, entry.affects_device_memory) == (expected, None, False)
    more = by_name(
        found({**a, "prefetch_factor": 3}, {**a, "prefetch_factor": 3, "num_workers": 5}, data_a=open_data(data[0]))
    )
    assert more["num_workers"].host_bytes == 3 * batch
    assert by_name(found(a, {**a, "num_workers": 24}))["num_workers"].host_bytes is None


@needs_alignn
def test_the_bytes_of_a_batch_are_those_of_alignns_graphs():
    workload = AlignnWorkload(alignn_layers=1, gcn_layers=1, hidden_features=8)
    samples = [workload.sample(entry) for entry in entries(6, 12)]
    graph, line_graph, *rest = workload.batch(samples)
    counted = sum(tensor.nbytes for tensor in rest)
    for part in (graph, line_graph):
        tensors = [frame[name] for frame in (part.ndata, part.edata) for name in frame]
        tensors += [*part.edges(), part.batch_num_nodes(), part.batch_num_edges()]
        counted += sum(tensor.nbytes for tensor in tensors)
    assert batch_bytes(measure(samples), 12) == pytest.approx(counted)


def test_only_the_training_split_counts(data, tmp_path):
    a = read_run_config(write(tmp_path / "a", FIRST, [f"small-{place}" for place in range(0, 90, 3)]))
    b = read_run_config(write(tmp_path / "b", FIRST, [f"small-{place}" for place in range(2, 90, 3)]))
    diagnosis = diagnose(a, b, data_a=open_data(data[0]))
    assert (by_name(diagnosis)["data.nodes per graph"].a, by_name(diagnosis)["data.nodes per graph"].b) == (10, 30)
    samples = by_name(diagnosis)["data.samples"]
    assert (samples.a, samples.b, samples.affects_device_memory) == (30, 30, False)
    assert "0 samples are in both" in samples.reason


def test_rules_hold_for_nested_names_and_host_settings_have_reasons():
    assert rule_for("training.loader.Batch_Size") == (None, "it changes the number of graphs per batch")
    assert rule_for("model.name") == (None, "it changes the model")
    assert rule_for("name") == (False, "output on disk or screen")
    affects, reason = rule_for("loader.pin_memory")
    assert affects is False
    assert "page-locked host memory" in reason
    assert rule_for("colour") is None


@needs_alignn
def test_alignns_defaults_are_filled_in(tmp_path):
    a = write(tmp_path / "a", {"batch_size": 16, "model": {"name": "alignn"}, "of_my_own": 1})
    b = write(tmp_path / "b", {"model": {"name": "alignn", "hidden_features": 256}, "of_my_own": 1})
    diagnosis = diagnose(read_run_config(a), read_run_config(b))
    assert [(entry.name, entry.a, entry.b) for entry in diagnosis.differences] == [("batch_size", 16, 64)]


def test_toml_is_read_and_nested_settings_are_known_by_their_last_name(tmp_path):
    for name, size in (("a", 8), ("b", 16)):
        (tmp_path / f"{name}.toml").write_text(f"[training.loader]\nbatch_size = {size}\n")
    diagnosis = diagnose(*(read_run_config(tmp_path / f"{name}.toml") for name in "ab"))
    assert [(entry.name, entry.a, entry.b) for entry in diagnosis.differences] == [
        ("training.loader.batch_size", 8, 16)
    ]
    assert diagnosis.differences[0].reason == "it changes the number of graphs per batch"


def test_yaml_is_read_where_its_reader_is_there(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "a.yaml").write_text("batch_size: 8\n")
    assert read_run_config(tmp_path / "a.yaml").flat == {"batch_size": 8}


@pytest.mark.skipif(bool(importlib.util.find_spec("yaml")), reason="PyYAML is there")
def test_yaml_without_its_reader_names_what_to_install(tmp_path):
    (tmp_path / "a.yaml").write_text("batch_size: 8\n")
    result = CliRunner().invoke(main, ["diagnose", str(tmp_path / "a.yaml"), str(tmp_path / "a.yaml")])
    assert result.exit_code == 3
    assert "pip install pyyaml" in result.stderr


@pytest.mark.parametrize("name", ["diagnose", "diagnose_bytes"])
def test_text_is_as_it_was_looked_at(name, data):
    options = {}
    if name == "diagnose_bytes":
        options = {"data_a": open_data(data[0]), "data_b": open_data(data[1]), "calibration": fitted()}
    text = render(diagnosis_report(found(FIRST, SECOND, **options)), 80) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NODEBUDGET_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_the_command(tmp_path, data):
    a, b = write(tmp_path / "a", FIRST | {"neighbor_strategy": None}), write(tmp_path / "b", SECOND)
    fitted().save(tmp_path / "cal.json")
    options = ["--data-a", str(data[0]), "--data-b", str(data[1]), "--calibration", str(tmp_path / "cal.json")]
    result = CliRunner().invoke(main, ["diagnose", a, b, *options, "--json"])
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    entry = answer["differences"][0]
    assert set(entry) == {"name", "a", "b", "affects_device_memory", "bytes", "reason", "host_bytes"}
    assert answer["predicted_bytes"]["b"] > answer["predicted_bytes"]["a"]
    assert answer["likely_cause"].startswith("The largest cause is ")
    text = CliRunner().invoke(main, ["diagnose", a, a])
    assert text.exit_code == 0
    assert text.stdout.startswith("The two runs have the same settings.")


def test_wrong_input_is_one_sentence_and_exit_2(tmp_path):
    good = write(tmp_path / "good", {"batch_size": 1})
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.json").write_text('{"batch_size": ')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "torn.toml").write_text("= 3")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    bad_ids = write(tmp_path / "ids", {"batch_size": 2})
    (tmp_path / "ids" / "ids_train_val_test.json").write_text("{}")
    cases = {
        str(tmp_path / "nowhere"): "does not exist",
        str(tmp_path / "empty"): "has no config",
        str(tmp_path / "torn.json"): "is not JSON",
        str(tmp_path / "list.json"): "has no settings",
        str(tmp_path / "torn.toml"): "is not TOML",
        str(tmp_path / "bytes.json"): "is not JSON",
        bad_ids: "lists no samples",
    }
    for path, words in cases.items():
        result = CliRunner().invoke(main, ["diagnose", good, path])
        assert result.exit_code == 2, path
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_data_that_lacks_what_the_calibration_needs_is_refused(tmp_path):
    SizeTable.from_counts([1, 2, 3]).save(tmp_path / "nodes.npz")
    with pytest.raises(InputError, match="depends on"):
        found(FIRST, SECOND, data_a=open_data(tmp_path / "nodes.npz"), calibration=fitted())


BASE = {"neighbor_strategy": "radius_graph", "cutoff": 4.0, "batch_size": 4, "num_workers": 0}
MODEL = {"name": "alignn_atomwise", **SMALL, "gradwise_weight": 0.05}


def alignn_runs(tmp_path, change):
    for name, values in (("a", {}), ("b", change)):
        config = {**BASE, **values, "model": {**MODEL, **values.get("model", {})}}
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    return [read_run_config(tmp_path / f"{name}.json") for name in "ab"]


@needs_alignn
@pytest.mark.parametrize(
    ("change", "affects", "sign"),
    [({"model": {"gradwise_weight": 1.0}}, False, 0), ({"cutoff": 3.0}, True, -1)],
)
def test_settings_of_alignn_are_measured(tmp_path, change, affects, sign):
    runs = alignn_runs(tmp_path, change)
    (unmeasured,) = diagnose(*runs).differences
    assert (unmeasured.affects_device_memory, unmeasured.bytes) == (None, None)
    assert "give --data" in diagnose(*runs).likely_cause
    diagnosis = diagnose(*runs, crystals=entries(most=8, count=8))
    (difference,) = diagnosis.differences
    assert difference.affects_device_memory is affects
    assert sign * difference.bytes == abs(difference.bytes) if sign else abs(difference.bytes) < 10_000
    assert difference.reason.startswith("measured: ")
    assert ("The largest cause is cutoff" in diagnosis.likely_cause) is affects


@needs_alignn
def test_measured_bytes_of_all_settings_add_up(tmp_path):
    runs = alignn_runs(tmp_path, {"cutoff": 3.0, "pin_memory": True, "model": {"hidden_features": 32}})
    steps = []
    diagnosis = diagnose(*runs, crystals=entries(most=8, count=8), progress=lambda *done: steps.append(done))
    shares = by_name(diagnosis)
    first, second = diagnosis.measured_bytes
    assert shares["cutoff"].bytes + shares["model.hidden_features"].bytes == pytest.approx(second - first, abs=2)
    assert shares["cutoff"].bytes < 0 < shares["model.hidden_features"].bytes
    assert "by itself" in shares["cutoff"].reason
    assert "page-locked" in shares["pin_memory"].reason
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    text = render(diagnosis_report(diagnosis), 80)
    assert "A step on the same crystals, up to 16 in a batch of A, measured: " in text


@pytest.mark.parametrize(
    ("peaks", "shares"),
    [
        # Five settings, more than are switched in every combination: what is left over goes in proportion.
        ({"": 100, "p": 110, "q": 130, "r": 100, "s": 100, "t": 100, "pqrst": 160}, [15, 45, 0, 0, 0]),
        # What all together change belongs to those that can't be switched alone.
        ({"": 100, "p": 110, "q": None, "r": None, "pqr": 150}, [10, 20, 20]),
        # A combination that fails.
        ({"": 100, "p": 110, "q": 110, "pq": 140, "r": 100, "pr": None, "pqr": 140}, [20, 20, 0]),
        # Every combination: Shapley values.
        ({"": 100, "p": 110, "q": 120, "pq": 150}, [20, 30]),
    ],
)
def test_what_is_left_over_is_attributed(monkeypatch, peaks, shares):
    def peak(a, b, names, crystals, device):
        value = peaks["".join(sorted(names))]
        if value is None:
            raise InputError("no", hint="no")
        return value

    monkeypatch.setattr("nodebudget.analysis.run_diff.measured._peak", peak)
    names = [name for name in "pqrst" if any(name in switched for switched in peaks)]
    changes = measure_settings(RunConfig("a", {}), RunConfig("b", {}), names, [])
    assert [changes.shares[name] for name in names] == pytest.approx(shares)


@needs_alignn
def test_a_step_of_b_that_fails_leaves_what_is_measured_alone(tmp_path, monkeypatch):
    runs = alignn_runs(tmp_path, {"cutoff": 3.0, "batch_size": 8})
    peaks = {(): 100, ("cutoff",): 80, ("batch_size",): None, ("batch_size", "cutoff"): None}

    def peak(a, b, names, crystals, device):
        value = peaks[tuple(names)]
        if value is None:
            raise DoesNotFitError("out of memory", hint="less")
        return value

    monkeypatch.setattr("nodebudget.analysis.run_diff.measured._peak", peak)
    diagnosis = diagnose(*runs, crystals=[])
    assert diagnosis.measured_bytes is None
    assert by_name(diagnosis)["cutoff"].bytes == -20
    assert by_name(diagnosis)["batch_size"].reason.startswith("can't be measured: out of memory")


def test_only_runs_of_alignn_can_be_measured(tmp_path):
    for name, size in (("a", 4), ("b", 8)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"batch_size": size}))
    with pytest.raises(InputError, match="two configs of alignn"):
        diagnose(*(read_run_config(tmp_path / f"{name}.json") for name in "ab"), crystals=entries(most=8, count=4))
