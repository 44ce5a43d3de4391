"""The monitor in the training loops of Lightning and Hugging Face's Trainer, where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from nodebudget import MemoryMonitor, read_run
from nodebudget.errors import MissingError
from nodebudget.integrations import lightning_callback, trainer_callback

# Warnings of these packages about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")


def without(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def log_of(tmp_path):
    return MemoryMonitor(tmp_path / "run.jsonl", device="cpu", sizes=lambda batch: {"graphs": _length(batch)})


def _length(batch):
    tensors = batch.values() if isinstance(batch, dict) else batch
    return len(next(iter(tensors)))


def lightning_parts(fail_at=None):
    module = importlib.import_module("lightning.pytorch")

    class Model(module.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            if batch_idx == fail_at:
                raise RuntimeError("CUDA out of memory")
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(torch.ones(10, 4))
    return module, Model(), DataLoader(data, batch_size=4)


def trainer_of(module, tmp_path, monitor):
    return module.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[lightning_callback(monitor)],
    )


@without("lightning")
def test_lightnings_trainer(tmp_path):
    module, model, loader = lightning_parts()
    monitor = log_of(tmp_path)
    trainer_of(module, tmp_path, monitor).fit(model, loader)
    run = read_run(monitor.path)
    assert [step["sizes"]["graphs"] for step in run.steps] == [4, 4, 2] * 2
    assert [step["epoch"] for step in run.steps] == [0] * 3 + [1] * 3
    assert [event["batches"] for event in run.events] == [3, 3]
    assert all(step["status"] == "done" and step["seconds"] > 0 for step in run.steps)
    assert run.end["status"] == "done"


@without("lightning")
def test_lightning_running_out_of_memory(tmp_path):
    module, model, loader = lightning_parts(fail_at=1)
    monitor = log_of(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer_of(module, tmp_path, monitor).fit(model, loader)
    run = read_run(monitor.path)
    assert [step["status"] for step in run.steps] == ["done", "out of memory"]
    assert run.end["status"] == "failed: RuntimeError"


class Regression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x, labels):
        return {"loss": torch.nn.functional.mse_loss(self.layer(x)[:, 0], labels)}


@without("transformers")
@without("accelerate")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_hugging_faces_trainer(accumulate, tmp_path):
    module = importlib.import_module("transformers")
    monitor = log_of(tmp_path)
    arguments = module.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    data = [{"x": [float(i)] * 4, "labels": float(i)} for i in range(10)]
    trainer = module.Trainer(
        model=Regression(),
        args=arguments,
        train_dataset=data,
        callbacks=[trainer_callback(monitor)],
    )
    trainer.train()
    run = read_run(monitor.path)
    assert [step["sizes"]["graphs"] for step in run.steps] == [4, 4, 2] * 2
    assert [step["epoch"] for step in run.steps] == [0] * 3 + [1] * 3
    assert all(step["status"] == "done" and step["seconds"] > 0 for step in run.steps)
    assert run.end["status"] == "done"
    # Nothing of it is left in the model.
    assert not trainer.model._forward_pre_hooks


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(lightning_callback, "lightning", "lightning"), (trainer_callback, "transformers", "transformers")],
)
def test_without_the_package(make, package, extra, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    with pytest.raises(MissingError, match=rf"nodebudget\[{extra}\]"):
        make(MemoryMonitor())
