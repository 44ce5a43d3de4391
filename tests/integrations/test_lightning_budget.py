"""A calibrated budget by one callback of Lightning: every crystal once per epoch, resumed as uninterrupted."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from nodebudget import InputError, MemoryMonitor, read_run
from nodebudget.integrations import NodeBudget
from nodebudget.utils.optional_imports import require

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("torch_geometric") is None, reason="PyG is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of Lightning about its own code
]
GRAPHS = 120


def crystals() -> list[Any]:
    data = require("torch_geometric.data")
    nodes = torch.randint(4, 40, (GRAPHS,), generator=torch.Generator().manual_seed(0)).tolist()
    return [
        data.Data(x=torch.ones(n, 16), edge_index=torch.arange(16 * n).reshape(2, -1) % n, number=place)
        for place, n in enumerate(nodes)
    ]


def new_net(**attributes: Any) -> Any:
    pl, nn = require("lightning.pytorch"), require("torch_geometric.nn")

    class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out, self.seen = nn.GCNConv(16, 64), torch.nn.Linear(64, 1), []

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.seen.append(batch.number.tolist())
            hidden = self.conv(batch.x, batch.edge_index).relu()
            loss = self.out(nn.global_mean_pool(hidden, batch.batch)).square().mean()
            self.log("loss", loss, batch_size=batch.num_graphs)
            return loss

        def on_train_start(self) -> None:
            self.seen.clear()  # those of the calibration

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-3)

    net = Net()
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def fit(folder: Path, net: Any, resume: Path | None = None, stop: Path | None = None, **budget: Any) -> Any:
    pl, loaders = require("lightning.pytorch"), require("torch_geometric.loader")

    class Stop(pl.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if stop is not None and trainer.current_epoch == 1 and index == 1:
                trainer.save_checkpoint(stop)
                trainer.should_stop = True
                raise KeyboardInterrupt

    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    callbacks = [NodeBudget(cache=str(folder / "cache"), **budget), Stop()]
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=callbacks, **dict.fromkeys(quiet, False))
    try:
        trainer.fit(net, loaders.DataLoader(crystals(), batch_size=16, shuffle=True), ckpt_path=resume)
    except (KeyboardInterrupt, SystemExit):
        assert stop is not None
    return trainer


def test_the_callback_calibrates_plans_and_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = new_net()
    with caplog.at_level(logging.INFO, "nodebudget"):
        trainer = fit(tmp_path, net, memory="1200KiB", monitor=MemoryMonitor(tmp_path / "run.jsonl", device="cpu"))
    assert any("calibrated with" in message for message in caplog.messages)
    sampler = trainer.train_dataloader.batch_sampler
    count = len(sampler)
    assert count > 2
    epochs = [net.seen[place : place + count] for place in range(0, 3 * count, count)]
    assert len(net.seen) == 3 * count
    assert all(sorted(graph for batch in epoch for graph in batch) == list(range(GRAPHS)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert sampler.plan.predicted_bytes.max() <= 1200 * 2**10
    assert [step["sizes"]["graphs"] for step in read_run(tmp_path / "run.jsonl").steps] == list(map(len, net.seen))

    stopped, after = new_net(), new_net()
    fit(tmp_path, stopped, stop=tmp_path / "stopped.ckpt", memory="1200KiB")
    fit(tmp_path, after, resume=tmp_path / "stopped.ckpt", memory="1200KiB")
    assert stopped.seen + after.seen == net.seen


def test_calibrating_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = new_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found: list[bool] = []
    type(net).on_train_start = lambda self: found.append(
        all(torch.equal(value, before[name]) for name, value in self.state_dict().items())
    )
    fit(tmp_path, net, memory="1200KiB")
    assert found == [True]
    assert "log" not in vars(net)


def test_resumed_with_the_memory_that_was_free_then(tmp_path: Path) -> None:
    stopped, after = new_net(), new_net()
    fit(tmp_path, stopped, stop=tmp_path / "stopped.ckpt", graphs_per_step=24)
    trainer = fit(tmp_path, after, resume=tmp_path / "stopped.ckpt", graphs_per_step=24)
    seen, count = stopped.seen + after.seen, len(trainer.train_dataloader)
    assert trainer.accumulate_grad_batches == 1
    assert {len(batch) for batch in seen} == {24}
    for epoch in range(3):
        assert sorted(graph for batch in seen[epoch * count :][:count] for graph in batch) == list(range(GRAPHS))


def test_manual_optimization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="manual optimization"):
        fit(tmp_path, new_net(automatic_optimization=False), memory="1200KiB")
