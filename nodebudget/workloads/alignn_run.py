"""A training run of alignn as a workload: the model, data, graphs and loop that `train_alignn.py` would use."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from nodebudget.datasets.counting.crystal import to_atoms
from nodebudget.datasets.graph_settings import GraphSettings
from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.alignn_inputs import MODELS, check_inputs, read_config, read_training_config
from nodebudget.workloads.alignn_loop import quiet

#: Modules of alignn that turn records into a dataset; a run uses one of them.
_DATASETS = ("alignn.lmdb_dataset", "alignn.pure_lmdb_dataset", "alignn.dataset")


class _ReadEnoughError(Exception):
    """Ends alignn's function where training would start."""


@dataclass(frozen=True)
class AlignnRun:
    """What `train_alignn.py` reads before it trains.

    Attributes:
        config: alignn's `TrainingConfig`, as the training loop would get it.
        model: The restarted model, or None where the loop makes one.
        records: Part ("train", "val", "test") → its records: dicts with `jid`, `atoms`, `target` and what the loss
            needs.
        settings: Arguments of alignn's `get_torch_dataset` that turn records into graphs.
        make_dataset: alignn's `get_torch_dataset`.
    """

    config: Any
    model: Any
    records: Mapping[str, list[dict[str, Any]]]
    settings: Mapping[str, Any]
    make_dataset: Any

    @property
    def graphs(self) -> GraphSettings:
        """Settings of the run's graphs."""
        return GraphSettings.from_alignn_config(self.settings)

    def blank_record(self, item: Any) -> dict[str, Any]:
        """Return a record of a crystal whose targets are 0, in the shapes of this run's data."""
        crystal = to_atoms(item)
        record = dict(self.records["train"][0])
        for key in ("atomwise_target", "atomwise_grad"):
            if key in record:
                record[key] = np.repeat(np.zeros_like(np.asarray(record[key])[:1]), crystal.num_atoms, axis=0)
        return {**record, "atoms": crystal.to_dict()}

    def describe(self) -> str:
        """Say in one line what is trained."""
        model, graphs = self.config.model, self.graphs
        forces = "with forces" if getattr(model, "calculate_gradient", False) else "without forces"
        neighbors = "" if graphs.neighbors is None else f", {graphs.neighbors} neighbors"
        layers = f"{model.alignn_layers} + {model.gcn_layers} layers of {model.hidden_features} features"
        return f"{model.name}, {layers}, {forces}; {graphs.strategy}{neighbors}, cutoff {graphs.cutoff:g} Å"

    def dataset(self, records: Sequence[Mapping[str, Any]], graphs: GraphSettings | None = None) -> tuple[Any, Any]:
        """Make alignn's dataset of some records.

        Args:
            records: Records of this run.
            graphs: Graph settings instead of the run's own.

        Returns:
            The dataset, and the temporary folder that holds it: `cleanup` removes it.
        """
        changed = {} if graphs is None else graphs.to_alignn()
        folder = tempfile.TemporaryDirectory(prefix="nodebudget-")
        with quiet():
            dataset = self.make_dataset(
                # alignn empties the list that it is given.
                dataset=list(records),
                **{**self.settings, **changed, "output_dir": folder.name, "tmp_name": f"{folder.name}/data"},
            )
        return dataset, folder


def read_alignn_run(root_dir: str | os.PathLike[str], config: str | os.PathLike[str], **options: Any) -> AlignnRun:
    """Read a run as `train_alignn.py --root_dir ROOT_DIR --config_name CONFIG` does, up to where it would train.

    alignn's own functions read and split the data; they write nothing beside it.

    Args:
        root_dir: Folder with `id_prop.json`, `id_prop.json.zip` or `id_prop.csv`.
        config: alignn's config.json.
        **options: Further arguments of alignn's `train_for_folder`, such as `file_format`.

    Raises:
        InputError: The config or the data is not what alignn takes, or lacks what the loss needs.
        MissingError: alignn is not installed.
    """
    module = require("alignn.train_alignn")
    check_inputs(root_dir, config, options)
    captured: dict[str, Any] = {"records": {}}
    with tempfile.TemporaryDirectory(prefix="nodebudget-") as folder, contextlib.ExitStack() as stack:

        def stop(config: Any, model: Any = None, **_: Any) -> None:
            captured.update(config=config, model=model)
            raise _ReadEnoughError

        stack.enter_context(patch.object(module, "train_dgl", stop))
        for name in _DATASETS:
            dataset_module = require(name)
            capture = _Capture(captured, dataset_module.get_torch_dataset)
            stack.enter_context(patch.object(dataset_module, "get_torch_dataset", capture))
        stack.enter_context(quiet())
        try:
            module.train_for_folder(
                root_dir=str(root_dir), config_name=str(config), **{**options, "output_dir": folder}
            )
        except _ReadEnoughError:
            pass
        except Exception as error:
            raise InputError(
                f"alignn can't read the run: {type(error).__name__}: {error}",
                hint="run train_alignn.py with the same options to see where",
            ) from error
    return AlignnRun(
        captured["config"], captured["model"], captured["records"], captured["settings"], captured["make_dataset"]
    )


class _Capture:
    """Stands in for `get_torch_dataset`: keeps what it is called with and builds no graphs."""

    def __init__(self, captured: dict[str, Any], make_dataset: Any) -> None:
        self._captured, self._make_dataset = captured, make_dataset

    def __call__(self, dataset: list[dict[str, Any]], tmp_name: str, output_dir: str, **settings: Any) -> Any:
        part = next(name for name in ("train", "val", "test") if tmp_name.endswith(f"{name}_data"))
        self._captured["records"][part] = list(dataset)
        if part == "train":
            settings = {name: value for name, value in settings.items() if name not in ("sampler", "read_existing")}
            self._captured.update(settings=settings, make_dataset=self._make_dataset)
        return _NoGraphs(dataset)


@dataclass
class _NoGraphs:
    """Stands in for alignn's dataset while its loaders are made."""

    records: list[Any]
    collate: Any = None
    collate_line_graph: Any = None
    prepare_batch: Any = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        return self.records[index]


def read_or_default_run(
    config: str | os.PathLike[str] | None,
    root_dir: str | os.PathLike[str] | None,
    options: dict[str, Any],
    model: Mapping[str, Any],
) -> AlignnRun:
    """Read a run; without `root_dir` one of a blank crystal, without `config` alignn's default run.

    Args:
        config: alignn's config.json, or None.
        root_dir: The data folder, or None.
        options: Further arguments of alignn's `train_for_folder`.
        model: Settings of the model that replace those of the config.
    """
    with tempfile.TemporaryDirectory(prefix="nodebudget-") as folder:
        path = Path(folder) / "config.json"
        values = {} if config is None else read_config(config)
        if model or config is None:
            named = {"name": MODELS[0], "atom_input_features": 92, **values.get("model", {}), **model}
            path.write_text(json.dumps({**values, "model": named}))
        else:
            path = Path(config)
        if root_dir is None:
            training = read_training_config(path)
            root_dir, options = folder, {}
            (Path(folder) / "id_prop.json").write_text(
                json.dumps([_blank(training.model, name) for name in "abcdefghij"])
            )
        return read_alignn_run(root_dir, path, **options)


def _blank(model: Any, name: str) -> dict[str, Any]:
    """Return a record of one atom with all that the loss may need."""
    atoms = {
        "lattice_mat": [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]],
        "coords": [[0.0, 0.0, 0.0]],
        "elements": ["Fe"],
        "abc": [3.0, 3.0, 3.0],
        "angles": [90.0, 90.0, 90.0],
        "cartesian": False,
        "props": [""],
    }
    several = model.output_features > 1
    return {
        "jid": name,
        "atoms": atoms,
        "total_energy": [0.0] * model.output_features if several else 0.0,
        "forces": [[0.0, 0.0, 0.0]],
        "stresses": [[0.0] * 3] * 3,
        "additional_output": [0.0] * max(1, model.additional_output_features),
    }
