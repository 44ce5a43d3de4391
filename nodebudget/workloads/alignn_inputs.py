"""What `train_alignn.py` needs of a config and a data folder, checked before alignn reads them.

alignn fails on most of this with a traceback, and on some only when it writes predictions, hours later.
"""

from __future__ import annotations

import csv
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError
from nodebudget.utils.optional_imports import require

#: Models that `alignn.train.train_dgl` trains: its loop passes over any other name without training.
MODELS = ("alignn_atomwise", "alignn_atomwise_pure", "alignn_atomwise_pure_smooth", "ealignn_atomwise")

_FORMATS = ("poscar", "cif", "xyz", "pdb")


def check_inputs(root_dir: str | os.PathLike[str], config: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
    """Check a config and a data folder of `train_alignn.py`.

    Args:
        root_dir: The folder.
        config: Path of config.json.
        options: Arguments of `train_for_folder`: `target_key`, `file_format` and so on.

    Raises:
        InputError: With the row or record, and the next step.
    """
    training = read_training_config(config)
    keys = _needed_keys(training.model, options)
    folder = Path(root_dir)
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(root_dir)!r}", hint="name the folder that holds id_prop.json")
    for name, check in (("id_prop.json.zip", _check_json), ("id_prop.json", _check_json), ("id_prop.csv", _check_csv)):
        if (folder / name).exists():
            check(folder / name, keys, options)
            return
    raise InputError(
        f"the folder {str(root_dir)!r} has no id_prop file",
        limit="id_prop.json, id_prop.json.zip or id_prop.csv",
        hint="name the folder that train_alignn.py takes as --root_dir",
    )


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read config.json as plain values.

    Raises:
        InputError: It is missing, or not a JSON object.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{str(path)!r} can't be read: {error.strerror}", hint="check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}", hint="name alignn's config.json") from error
    if not isinstance(values, dict):
        raise InputError(f"{str(path)!r} is not a JSON object", hint="name alignn's config.json")
    return values


def read_training_config(path: str | os.PathLike[str]) -> Any:
    """Read config.json as alignn's `TrainingConfig`.

    Raises:
        InputError: It is missing, no JSON, or not what alignn takes.
        MissingError: alignn is not installed.
    """
    values = read_config(path)
    name = values.get("model", {}).get("name", MODELS[0]) if isinstance(values.get("model", {}), dict) else None
    if name not in MODELS:
        raise InputError(
            f"{str(path)!r} names the model {name!r}",
            limit=f"alignn's train_dgl trains {', '.join(MODELS)}",
            hint="name one of these in model.name",
        )
    config = require("alignn.config")
    try:
        training = config.TrainingConfig(**values)
    except Exception as error:  # pydantic's own errors, one line for each model that it tried
        raise InputError(
            f"{str(path)!r} is not a config of alignn: {_reason(error, name)}", hint="correct that setting"
        ) from error
    if training.neighbor_strategy == "voronoi":
        raise InputError(
            "neighbor_strategy 'voronoi' is not implemented in alignn", hint="take k-nearest or radius_graph"
        )
    return training


def _reason(error: Exception, model: str) -> str:
    errors = getattr(error, "errors", None)
    if errors is None:
        return " ".join(str(error).split())[:200]
    wanted = model.replace("_", "")
    details = errors()
    # Of the models in a union only the named one matters.
    ours = [
        entry for entry in details if len(entry["loc"]) < 2 or wanted in str(entry["loc"][1]).lower().replace("_", "")
    ]
    first = (ours or details)[0]
    names = [str(part) for part in first["loc"] if not str(part).endswith("Config")]
    return f"{'.'.join(names)}: {first['msg']}"


def _needed_keys(model: Any, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys that each record must have, with why: the rules of `train_for_folder`."""
    keys = {
        options.get("target_key", "total_energy"): "the target",
        "atoms": "the crystal",
        options.get("id_key", "jid"): "the id",
    }
    gradient = model.calculate_gradient
    if model.atomwise_weight != 0:
        keys[options.get("atomwise_key", "forces")] = f"atomwise_weight is {model.atomwise_weight}"
    if gradient and model.gradwise_weight != 0:
        keys[options.get("gradwise_key", "forces")] = (
            f"calculate_gradient is true and gradwise_weight {model.gradwise_weight}"
        )
    if gradient and model.stresswise_weight != 0:
        keys[options.get("stresswise_key", "stresses")] = f"stresswise_weight is {model.stresswise_weight}"
    if model.additional_output_features > 0 and model.additional_output_weight != 0:
        keys[options.get("additional_output_key", "additional_output")] = (
            f"additional_output_weight is {model.additional_output_weight}"
        )
    return keys


def _check_json(path: Path, keys: Mapping[str, str], options: Mapping[str, Any]) -> None:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                records = json.loads(archive.read("id_prop.json"))
        else:
            records = json.loads(path.read_bytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} can't be read: {error}", hint="write it again as a JSON list") from error
    if not isinstance(records, list) or not records:
        raise InputError(f"{str(path)!r} is not a list of records", hint="give a JSON list with a dict per crystal")
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(f"{str(path)!r}, record {row}: not a dict", hint="give a dict per crystal")
        for key, why in keys.items():
            if key not in record:
                raise InputError(
                    f"{str(path)!r}, record {row} has no {key!r}",
                    limit=f"it is needed since {why}" if " is " in why else f"it is {why}",
                    hint=_missing_hint(key, why),
                )
        _check_target(path, row, record[options.get("target_key", "total_energy")])


def _missing_hint(key: str, why: str) -> str:
    if "calculate_gradient" in why:
        return "add the forces, or train without: calculate_gradient false and gradwise_weight 0"
    if " is " in why:
        return "add it to every record, or set that weight to 0"
    return "add it to every record, or name another key (--target_key, --id_key)"


def _check_target(path: Path, row: int, target: Any) -> None:
    values = target if isinstance(target, list) else [target]
    if target is None or target == "na":
        return  # alignn leaves these out
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{str(path)!r}, record {row}: the target is {value!r}", hint="give numbers")
        if isinstance(target, list) and not math.isfinite(value):
            raise InputError(f"{str(path)!r}, record {row}: the target has {value}", hint="leave that record out")


def _check_csv(path: Path, keys: Mapping[str, str], options: Mapping[str, Any]) -> None:
    weighted = [f"{key!r} ({why})" for key, why in keys.items() if " is " in why]
    if weighted:
        raise InputError(
            f"{str(path)!r} can't hold {' and '.join(weighted)}",
            limit="a CSV has ids and targets alone",
            hint="write id_prop.json with these keys, or set calculate_gradient to false and the weights to 0",
        )
    file_format = options.get("file_format", "poscar")
    if file_format not in _FORMATS:
        raise InputError(
            f"file_format is {file_format!r}", limit=f"one of {', '.join(_FORMATS)}", hint="give one of them"
        )
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} can't be read: {error}", hint="save it as UTF-8") from error
    if text.startswith("\ufeff"):
        raise InputError(
            f"{str(path)!r} starts with a byte order mark, which alignn takes for a part of the first id",
            hint="save it as UTF-8 without BOM",
        )
    rows = list(csv.reader(text.splitlines()))
    if not rows:
        raise InputError(f"{str(path)!r} has no rows", hint="give a row per crystal: id, target")
    for number, row in enumerate(rows, start=1):
        _check_row(path, number, row, len(rows[0]))


def _check_row(path: Path, number: int, row: Sequence[str], columns: int) -> None:
    where = f"{str(path)!r}, row {number}"
    if len(row) < 2:
        raise InputError(f"{where}: {','.join(row)!r}", limit="an id and one target or more", hint="delete the row")
    if len(row) != columns:
        raise InputError(f"{where} has {len(row)} columns", limit=f"row 1 has {columns}", hint="give all rows as many")
    for value in row[1:]:
        try:
            float(value)
        except ValueError:
            header = number == 1
            raise InputError(
                f"{where}: {value!r} is not a number",
                hint="delete the header row, which alignn does not know" if header else "give targets as numbers",
            ) from None
    if not (path.parent / row[0]).is_file():
        endings = sorted(file.name for file in path.parent.glob(f"{row[0]}.*"))
        raise InputError(
            f"{where}: the file {row[0]!r} is missing",
            hint=f"write {endings[0]!r}: alignn takes the id for the name of the file" if endings else "add the file",
        )
