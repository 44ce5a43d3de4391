"""Read a run: its config as flat settings, and the ids of its training samples."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.errors import InputError, MissingError, first_line
from nodebudget.utils.files import read_text
from nodebudget.utils.optional_imports import require
from nodebudget.workloads.alignn_inputs import MODELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Config files, in the order in which a folder is searched for them.
CONFIGS = ("config.json", "config.toml", "config.yaml", "config.yml")

_IDS = "ids_train_val_test.json"

#: Maximum depth and number of values of a config: a YAML file can refer to a part of itself repeatedly or recursively.
_MAX_DEPTH, _MAX_VALUES = 50, 200_000

#: Maximum bytes of a config, a YAML config (PyYAML reads 100 KB per second), and a list of samples.
_CONFIG, _YAML, _SAMPLES = 2**24, 2**20, 2**29

#: Settings of alignn's TrainingConfig that are rare in other configs.
_ALIGNN_KEYS = {"neighbor_strategy", "atom_features", "use_canonize"}


@dataclass(frozen=True)
class RunConfig:
    """One run."""

    name: str  #: Name given by the user.
    settings: Mapping[str, Any]  #: Nested settings; missing settings of an alignn config have alignn's defaults.
    train_ids: tuple[str, ...] | None = None  #: Ids of its training samples, or None if they are not listed.
    is_alignn: bool = False  #: Whether the config is alignn's.

    @property
    def flat(self) -> dict[str, Any]:
        """All settings by dotted names."""
        return flatten(self.settings)

    def setting(self, *names: str) -> Any:
        """Return the first of these settings that is set, at any depth, or None."""
        flat = self.flat
        values = (flat[key] for name in names for key in flat if key == name or key.endswith(f".{name}"))
        return next(values, None)


def read_run_config(path: str | os.PathLike[str]) -> RunConfig:
    """Read a run.

    Args:
        path: An output folder with a config, or a config file: JSON, TOML or YAML by its suffix.

    Raises:
        InputError: The path does not exist, or has no settings.
        MissingError: It is YAML, and PyYAML is not installed.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"{str(path)!r} does not exist", hint="check the path")
    config = _config_in(source) if source.is_dir() else source
    values = _read(config)
    model = values.get("model")
    is_alignn = bool(_ALIGNN_KEYS & set(values))
    is_alignn |= isinstance(model, Mapping) and model.get("name") in ("alignn", *MODELS)
    ids = _train_ids(config.parent / _IDS) if source.is_dir() or config.name in CONFIGS else None
    return RunConfig(str(path), _with_defaults(values) if is_alignn else values, ids, is_alignn)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _config_in(folder: Path) -> Path:
    for name in CONFIGS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"the folder {str(folder)!r} has no config", limit=f"one of {', '.join(CONFIGS)}", hint="give the config file"
    )


def _read(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    kind = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}.get(suffix, "JSON")
    try:
        values = _parser(kind)(read_text(path, max_bytes=_YAML if kind == "YAML" else _CONFIG))
        _check_extent(values)
    except OSError as error:
        raise InputError(f"{str(path)!r} can't be read: {error.strerror}", hint="check the path") from error
    except MissingError:
        raise
    except Exception as error:  # PyYAML's errors have a base class of their own
        reason = first_line(error)
        raise InputError(f"{str(path)!r} is not {kind}: {reason}", hint="give the config of a run") from error
    if not isinstance(values, dict) or not values:
        raise InputError(f"{str(path)!r} has no settings", limit="names and values", hint="give the config of a run")
    return values


def _check_extent(values: Any) -> None:
    layer, count = [values] if isinstance(values, (dict, list)) else [], 0
    for _ in range(_MAX_DEPTH):
        children = [list(entry.values() if isinstance(entry, dict) else entry) for entry in layer]
        count += sum(map(len, children))
        if count > _MAX_VALUES:
            raise ValueError(f"it has over {_MAX_VALUES:,} values")
        layer = [value for entries in children for value in entries if isinstance(value, (dict, list))]
        if not layer:
            return
    raise ValueError(f"it is nested over {_MAX_DEPTH} deep")


def _parser(kind: str) -> Callable[[str], Any]:
    if kind == "YAML":
        try:
            parse: Callable[[str], Any] = require("yaml").safe_load
        except MissingError as error:
            raise MissingError("PyYAML, which reads YAML, does not import", hint="pip install pyyaml") from error
        return parse
    return tomllib.loads if kind == "TOML" else json.loads


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Add alignn's defaults; change nothing if alignn is not installed or refuses a value."""
    try:
        config = require("alignn.config").TrainingConfig
        defaults = config(**{key: value for key, value in values.items() if key in config.model_fields}).model_dump()
    except (MissingError, ValueError, TypeError):
        return values
    merged = {**defaults, **values}
    if isinstance(values.get("model"), Mapping):
        merged["model"] = {**defaults["model"], **values["model"]}
    return merged


def _train_ids(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    try:
        return tuple(str(name) for name in json.loads(read_text(path, max_bytes=_SAMPLES))["id_train"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{str(path)!r} lists no samples: {type(error).__name__}",
            limit="a list id_train, as alignn writes it",
            hint="repair the file, or give a copy of the config outside its folder",
        ) from error
