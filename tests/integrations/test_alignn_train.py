"""`nodebudget train-alignn`: alignn's own run, within a budget, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from alignn_folder import write_root
from click.testing import CliRunner

from nodebudget.cli import main
from nodebudget.errors import DoesNotFitError, RecordError
from nodebudget.integrations import AlignnTraining, TrainingBudget, train_alignn
from nodebudget.profiling.cpu_trace import memory_profiler, peak_of, read_blocks
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.alignn_loop import quiet


def run(folder: Path, **options: Any) -> tuple[TrainingBudget, Any]:
    """Train; return what was announced and the loaders that alignn's loop got."""
    announced: list[TrainingBudget] = []
    loaders: list[Any] = []
    train_dgl = require("alignn.train_alignn").train_dgl

    def watched(config: Any, train_val_test_loaders: Any, **named: Any) -> Any:
        loaders.extend(train_val_test_loaders)
        return train_dgl(config, train_val_test_loaders=train_val_test_loaders, **named)

    alignn = {"output_dir": str(folder / "out"), **options.pop("alignn", {})}
    training = AlignnTraining(str(folder), str(folder / "config.json"), probes=12, alignn=alignn, **options)
    with patch.object(require("alignn.train_alignn"), "train_dgl", watched), quiet():
        train_alignn(training, announced.append)
    return announced[0], loaders


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # alignn writes its caches into the current folder


def test_two_epochs_with_forces_stay_within_the_memory(tmp_path: Path) -> None:
    write_root(tmp_path, count=40, training={"epochs": 2, "write_predictions": False})
    budget, loaders = run(tmp_path, memory="24MiB")
    sampler = loaders[0].batch_sampler
    assert budget.origin == "measured: .nodebudget has no calibration yet"
    assert {"history_train.json", "history_val.json", "current_model.pt", "last_model.pt"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert len(json.loads((tmp_path / "out" / "history_train.json").read_text())) == 2
    assert sorted(sampler.plan.indices.tolist()) == list(range(len(sampler.sizes)))
    predicted = budget.plan.predicted_bytes
    assert predicted is not None
    assert predicted.max() <= budget.memory
    assert np.std(predicted) <= 0.05 * np.mean(predicted)
    again, _ = run(tmp_path, memory="24MiB")
    assert again.origin == "cached"
    assert again.calibration.coefficients == budget.calibration.coefficients


def test_the_measured_steps_are_within_the_budget_in_training_and_validation(tmp_path: Path) -> None:
    write_root(tmp_path, count=40, training={"epochs": 1, "write_predictions": False})
    peaks: list[int] = []
    module = require("alignn.train_alignn")
    train_dgl = module.train_dgl

    class Watched:
        def __init__(self, loader: Any) -> None:
            self.loader, self.dataset = loader, loader.dataset

        def __len__(self) -> int:
            return len(self.loader)

        def __iter__(self) -> Any:
            for batch in self.loader:
                with memory_profiler() as profiler:
                    yield batch
                peaks.append(peak_of(read_blocks(profiler).nbytes))

    def watched(config: Any, train_val_test_loaders: Any, **named: Any) -> Any:
        train, val, *rest = train_val_test_loaders
        return train_dgl(config, train_val_test_loaders=[Watched(train), Watched(val), *rest], **named)

    training = AlignnTraining(
        str(tmp_path), str(tmp_path / "config.json"), memory="24MiB", probes=12, alignn={"output_dir": "out"}
    )
    announced: list[TrainingBudget] = []
    with patch.object(module, "train_dgl", watched), quiet():
        train_alignn(training, announced.append)
    assert len(peaks) == len(announced[0].plan) + len(announced[0].validation)
    assert max(peaks) <= announced[0].memory


def test_a_resumed_run_goes_on_with_the_next_epoch(tmp_path: Path) -> None:
    options = {"epochs": 1, "write_predictions": False, "resume_checkpoint": True, "lr_total_epochs": 2}
    write_root(tmp_path, count=24, training=options)
    run(tmp_path, memory="24MiB")
    _, loaders = run(tmp_path, memory="24MiB", alignn={"epochs": "2"})
    assert loaders[0].batch_sampler.epoch == 1
    assert len(json.loads((tmp_path / "out" / "history_train.json").read_text())) == 1


def test_a_calibration_of_this_run_is_used_and_one_of_another_is_refused(tmp_path: Path) -> None:
    root, config = write_root(tmp_path, count=24, training={"epochs": 1, "write_predictions": False})
    record = str(tmp_path / "cal.json")
    command = [
        "calibrate",
        "--device",
        "cpu",
        "--alignn-config",
        config,
        "--data",
        root,
        "--probes",
        "12",
        "-o",
        record,
    ]
    with quiet():
        assert CliRunner().invoke(main, command).exit_code == 0
    budget, _ = run(tmp_path, memory="24MiB", calibration=record)
    assert budget.origin == "given"
    assert budget.calibration.validation is not None
    changed = {**json.loads(Path(config).read_text()), "cutoff": 5.0}
    changed["model"]["hidden_features"] = 32
    Path(config).write_text(json.dumps(changed))
    with pytest.raises(RecordError, match=r"another run: hidden_features was 16, is 32, cutoff was 8\.0, is 5\.0"):
        run(tmp_path, memory="24MiB", calibration=record)


def test_single_graphs_are_refused_where_alignn_would_fail_on_them_after_training(tmp_path: Path) -> None:
    write_root(tmp_path, count=24, calculate_gradient=False, gradwise_weight=0.0, training={"epochs": 1})
    with pytest.raises(DoesNotFitError, match=r"single graph.*write_predictions"):
        run(tmp_path, memory="24MiB", graphs_per_step=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "lots"], "lots"),
        (["--memory", "120%"], "up to 100%"),
        (["--calibration", "nowhere.json"], "nowhere.json"),
        (["--root_dir", "nowhere"], "there is no folder 'nowhere'"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_root(tmp_path, count=24, training={"epochs": 1})
    base = {"--root_dir": ".", "--config_name": "config.json", "--output_dir": "out", "--probes": "12"}
    given = base | dict(zip(arguments[::2], arguments[1::2], strict=True))
    with quiet():
        result = CliRunner().invoke(main, ["train-alignn", *(part for pair in given.items() for part in pair)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_all_options_of_train_alignn_are_taken() -> None:
    theirs = {action.option_strings[0] for action in require("alignn.train_alignn").parser._actions} - {"-h"}
    command = main.get_command(None, "train-alignn")  # type: ignore[arg-type]
    ours = {name for parameter in command.params for name in parameter.opts}  # type: ignore[union-attr]
    assert theirs <= ours
