"""Lightning's own loop: every epoch's batches, and those of the uninterrupted run after a checkpoint saved anywhere."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nodebudget import NodeBudgetSampler, SizeTable
from nodebudget.integrations import AdvancingSampler

PACKAGE = next(
    (name for name in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(name.partition(".")[0])),
    None,
)
pytestmark = [
    pytest.mark.skipif(PACKAGE is None, reason="lightning is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of Lightning about its own code, and about few workers
]

SIZES = SizeTable.from_counts(np.random.default_rng(0).integers(2, 60, 120))
EPOCHS = 4
pl: Any = None if PACKAGE is None else importlib.import_module(PACKAGE)
Seen = list[list[int]]


def new_sampler(kind: type[NodeBudgetSampler] = NodeBudgetSampler, **options: Any) -> NodeBudgetSampler:
    return kind(SIZES, max_nodes=320, **options)


COUNT = len(new_sampler())


def new_loader(sampler: NodeBudgetSampler, workers: int = 0) -> DataLoader[Any]:
    return DataLoader(range(len(SIZES)), batch_sampler=sampler, collate_fn=torch.tensor, num_workers=workers)


def expected(epochs: range = range(EPOCHS), batches: int | None = None) -> Seen:
    seen = []
    for epoch in epochs:
        sampler = new_sampler()
        sampler.set_epoch(epoch)
        seen += list(sampler)[:batches]
    return seen


def new_net(loader: Callable[[], DataLoader[Any]] | None = None) -> Any:
    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(1, 1), []

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            self.seen.append(batch.tolist())
            return self.layer(batch[:, None].float()).mean()

        def validation_step(self, batch: torch.Tensor, index: int) -> None:
            self.layer(batch[:, None].float())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-6)

    net = Net()
    if loader is not None:
        net.train_dataloader = loader
    return net


def stop_at(path: Path, place: str) -> Any:
    """Return a callback that saves a checkpoint somewhere in the second epoch, and ends the run."""

    class Stop(pl.Callback):
        def stop(self, trainer: Any) -> None:
            trainer.save_checkpoint(path)
            raise KeyboardInterrupt

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if place == "epoch start" and trainer.current_epoch == 1:
                self.stop(trainer)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            places = {"batch": 4, "first batch": 0, "last batch": trainer.num_training_batches - 1}
            if trainer.current_epoch == 1 and index == places.get(place):
                self.stop(trainer)

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
            last = done == trainer.num_training_batches
            if trainer.current_epoch == 1 and place == ("last validation" if last else "validation"):
                self.stop(trainer)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if place == "epoch end" and trainer.current_epoch == 1:
                self.stop(trainer)

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            if place == "exception" and isinstance(exception, RuntimeError):
                trainer.save_checkpoint(path)

    return Stop()


def fit(
    net: Any,
    loader: Any = None,
    resume: Path | None = None,
    validate: bool = False,
    epochs: int = EPOCHS,
    **options: Any,
) -> Any:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    common = {"max_epochs": epochs, "accelerator": "cpu", "num_sanity_val_steps": 0, **dict.fromkeys(quiet, False)}
    trainer = pl.Trainer(**{**common, **options})
    val = DataLoader(range(4), batch_size=2) if validate else None
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(net, loader, val, ckpt_path=resume)
    return trainer


PLACES = ["epoch start", "first batch", "batch", "last batch", "validation", "last validation", "epoch end", "after"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("kind", "workers", "options"),
    [
        (NodeBudgetSampler, 0, {}),
        (AdvancingSampler, 2, {}),
        (NodeBudgetSampler, 2, {"accumulate_grad_batches": 2}),
        (AdvancingSampler, 0, {"limit_train_batches": 6}),
        (NodeBudgetSampler, 2, {"limit_train_batches": 6, "reload_dataloaders_every_n_epochs": 1}),
        (NodeBudgetSampler, 0, {"reload_dataloaders_every_n_epochs": 1}),
        (AdvancingSampler, 2, {"reload_dataloaders_every_n_epochs": 2}),
    ],
)
def test_a_run_goes_on_as_if_it_had_not_stopped(
    place: str, kind: type[NodeBudgetSampler], workers: int, options: dict[str, Any], tmp_path: Path
) -> None:
    def run(resume: Path | None = None, epochs: int = EPOCHS, callbacks: Any = ()) -> tuple[Any, Any]:
        net = new_net(lambda: new_loader(new_sampler(kind), workers))
        common = {"validate": True, "val_check_interval": 0.5, **options}
        return net, fit(net, resume=resume, epochs=epochs, callbacks=list(callbacks), **common)

    whole = expected(batches=options.get("limit_train_batches"))
    assert run()[0].seen == whole
    path = tmp_path / "stopped.ckpt"
    if place == "after":
        before, trainer = run(epochs=2)
        trainer.save_checkpoint(path)
    else:
        before, _ = run(callbacks=[stop_at(path, place)])
    after, _ = run(resume=path)
    assert before.seen + after.seen == whole


def test_a_step_that_failed_is_trained_again(tmp_path: Path) -> None:
    net = new_net()
    step = type(net).training_step

    def failing(batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if net.current_epoch == 1 and batch_idx == 5:
            raise RuntimeError("out of memory")
        return step(net, batch, batch_idx)

    net.training_step = failing
    path = tmp_path / "failed.ckpt"
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(net, new_loader(new_sampler(), 2), callbacks=[stop_at(path, "exception")])
    after = new_net()
    fit(after, new_loader(new_sampler(), 2), resume=path)
    assert net.seen + after.seen == expected()


def test_a_sampler_that_was_placed_before_goes_on_from_there() -> None:
    sampler = new_sampler()
    sampler.set_epoch(5)
    net = new_net()
    fit(net, new_loader(sampler), epochs=2)
    assert net.seen == expected(range(5, 7))

    first = new_sampler()
    first.set_epoch(3)
    sampler = new_sampler()
    sampler.load_state_dict(first.state_dict(consumed=4))
    net = new_net()
    fit(net, new_loader(sampler), epochs=2)
    assert net.seen == expected(range(3, 5))[4:]


def test_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "plain.ckpt"
    fit(new_net(), new_loader(new_sampler()), callbacks=[stop_at(path, "batch")])
    saved = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    [entry] = saved["loops"]["fit_loop"]["state_dict"]["nodebudget"]
    assert entry["sampler"]["consumed"] == 5


def test_a_checkpoint_without_a_sampler_begins_at_lightnings_epoch(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    trainer = fit(new_net(), DataLoader(range(20), batch_size=2), epochs=2)
    trainer.save_checkpoint(path)
    net = new_net()
    fit(net, new_loader(new_sampler()), resume=path)
    assert net.seen == expected(range(2, EPOCHS))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["first batch", "batch", "last batch", "epoch end"])
def test_stateful_loaders_of_torchdata(place: str, workers: int, tmp_path: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        options = {"collate_fn": torch.tensor, "num_workers": workers}
        return stateful.StatefulDataLoader(range(len(SIZES)), batch_sampler=new_sampler(), **options)

    path = tmp_path / "stateful.ckpt"
    before, after = new_net(), new_net()
    fit(before, loader(), callbacks=[stop_at(path, place)])
    fit(after, loader(), resume=path)
    assert before.seen + after.seen == expected()


def test_prediction_and_validation_take_every_crystal() -> None:
    net = new_net()
    net.predict_step = lambda batch, batch_idx: batch
    trainer = fit(net, new_loader(new_sampler()), epochs=1)
    predicted = trainer.predict(net, new_loader(new_sampler(shuffle=False)))
    assert sorted(graph for batch in predicted for graph in batch.tolist()) == list(range(len(SIZES)))
