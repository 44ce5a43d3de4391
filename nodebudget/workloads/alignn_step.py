"""The training step of alignn's own loop, as a workload."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nodebudget.datasets.counting.graph import count_graph
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import check_dgl_on
from nodebudget.workloads.alignn import graph_settings_variants
from nodebudget.workloads.alignn_loop import AlignnLoop
from nodebudget.workloads.alignn_run import AlignnRun, read_or_default_run


def step_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a run that change what a step takes, but for its graphs.

    Args:
        config: alignn's `TrainingConfig`.
    """
    names = ("dtype", "use_amp", "compute_line_graph", "optimizer", "criterion", "classification_threshold")
    return {**config.model.model_dump(mode="json"), **{name: getattr(config, name) for name in names}}


class AlignnStep:
    """The training step of `alignn.train.train_dgl`, on samples that alignn's datasets hold.

    Args:
        config: alignn's `TrainingConfig`.
        model: The model to train, or None to let alignn make it.
        device: Where the model goes.
        collate: alignn's collate function for the samples.
    """

    def __init__(
        self, config: Any, model: torch.nn.Module | None, device: torch.device | str, collate: Any = None
    ) -> None:
        self._loop = AlignnLoop(config, model, torch.device(device))
        self.model: torch.nn.Module = self._loop.model
        self.optimizer: torch.optim.Optimizer = self._loop.optimizer
        self._collate = collate
        self.gpu_only = "alignn uses autocast (use_amp) on a GPU only" if config.use_amp else ""
        self.name = f"alignn.train.train_dgl, {config.model.name}"
        self.config = step_settings(config)

    def sizes(self, sample: Any) -> dict[str, int]:
        """Count a sample: nodes, edges and line-graph edges."""
        return count_graph(sample)

    def batch(self, samples: Sequence[Any]) -> Any:
        """Collate samples as alignn does; alignn's loop moves them to the device."""
        if not samples:
            raise InputError("a batch of no samples", hint="give at least one")
        return self._collate(list(samples))

    def step(self, batch: Any) -> None:
        """Take one training step of `train_dgl`."""
        self._loop.step(batch)

    def validate(self, batch: Any) -> None:
        """Take one validation step of `train_dgl`, which keeps what a backward pass would need."""
        self._loop.validate(batch)

    def close(self) -> None:
        """End the loop, and with it what it holds on the device."""
        self._loop.close()


class AlignnRunWorkload(AlignnStep):
    """The training step of a run of `train_alignn.py`, for the records of its data or for any crystals.

    Args:
        device: Where the model goes.
        config: alignn's config.json; None: alignn's default run.
        root_dir: The data folder of the run; None: any JARVIS dicts, whose targets, forces and stresses are taken as 0,
            since their values do not change the memory of a step.
        run: What was read, instead of `config` and `root_dir`.
        options: Further arguments of alignn's `train_for_folder`, such as `file_format`.
        **model: Settings of the model that replace those of the config.

    Raises:
        InputError: The run can't be read.
        MissingError: alignn is not installed, or DGL can't use the device.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        config: str | os.PathLike[str] | None = None,
        root_dir: str | os.PathLike[str] | None = None,
        run: AlignnRun | None = None,
        options: Mapping[str, Any] | None = None,
        **model: Any,
    ) -> None:
        self._any_crystals = run is None and root_dir is None
        self.run = run or read_or_default_run(config, root_dir, dict(options or {}), model)
        if torch.device(device).type == "cuda" and not self.run.make_dataset.__module__.startswith("alignn.pure"):
            check_dgl_on(str(device))
        super().__init__(self.run.config, self.run.model, device)
        self.name = f"alignn.train.train_dgl: {self.run.describe()}"
        self.graphs = self.run.graphs

    @property
    def records(self) -> list[dict[str, Any]] | None:
        """The records that the run trains and validates on; None for any crystals."""
        return None if self._any_crystals else [*self.run.records["train"], *self.run.records.get("val", [])]

    def sample(self, item: Any) -> Any:
        """Turn a record of the run, or a JARVIS dict, into (g, lg, lattice, target) as alignn's dataset holds it."""
        return self.from_crystal(item)

    def from_crystal(self, item: Any, graphs: GraphSettings | None = None) -> Any:
        """Turn a record or a JARVIS dict into a sample, with these graph settings."""
        record = self.run.blank_record(item) if self._any_crystals else item
        dataset, folder = self.run.dataset([record], graphs)
        with folder:
            sample = dataset[0]
            self._collate = dataset.collate_line_graph if self.run.settings["line_graph"] else dataset.collate
            if hasattr(dataset, "close"):
                dataset.close()
        return sample

    def variants(self, item: Any) -> list[Any]:
        """Return the same crystals with other neighbor counts or cutoffs."""
        return list(graph_settings_variants(self))
