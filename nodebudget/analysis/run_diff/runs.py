"""What a run was started with: its config as flat settings, and which samples it trained on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodebudget.analysis.run_diff.models import MODELS
from nodebudget.errors import InputError, MissingError
from nodebudget.utils.files import read_text
from nodebudget.utils.optional_imports import require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Files that hold the settings of a run, in the order in which a folder is searched for them.
CONFIGS = ("config.json", "config.toml", "config.yaml", "config.yml")

_IDS = "ids_train_val_test.json"

#: Depth and number of values of a config. YAML can name a part of itself again and again, or from within.
_DEEPEST, _MOST = 50, 200_000

#: Bytes of a config, and of a list of samples. PyYAML reads 100 KB a second.
_CONFIG, _YAML, _SAMPLES = 2**24, 2**20, 2**29

#: Settings that alignn's TrainingConfig has and hardly any other config does.
_ALIGNN_KEYS = {"neighbor_strategy", "atom_features", "use_canonize"}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: What the user calls it.
        settings: As they were given, with alignn's defaults for what an alignn config leaves out.
        train_ids: Names of the samples that it trained on, or None where that is not known.
        is_alignn: Whether the settings are alignn's.
    """

    name: str
    settings: Mapping[str, Any]
    train_ids: tuple[str, ...] | None = None
    is_alignn: bool = False

    @property
    def flat(self) -> dict[str, Any]:
        """All settings by dotted names."""
        return flatten(self.settings)

    def setting(self, *names: str) -> Any:
        """Return the first of these settings that is there, at any depth, or None."""
        flat = self.flat
        for name in names:
            found = [value for key, value in flat.items() if key == name or key.endswith(f".{name}")]
            if found:
                return found[0]
        return None


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run.

    Args:
        path: An output folder with a config in it, or a config: JSON, TOML or YAML by its suffix.

    Raises:
        InputError: There is no such thing, or it holds no settings.
        MissingError: YAML without PyYAML.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"there is no file or folder {str(path)!r}", hint="check the path")
    config = _config_in(place) if place.is_dir() else place
    values = _read(config)
    is_alignn = _is_alignn(values)
    ids = _train_ids(config.parent / _IDS) if place.is_dir() or config.name in CONFIGS else None
    return Run(str(path), _with_defaults(values) if is_alignn else values, ids, is_alignn)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names; lists stay values."""
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
        f"the folder {str(folder)!r} has no config", limit=f"one of {', '.join(CONFIGS)}", hint="name the file itself"
    )


def _read(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    kind = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}.get(suffix, "JSON")
    try:
        values = _parser(kind)(read_text(path, most=_YAML if kind == "YAML" else _CONFIG))
        _refuse_endless(values)
    except OSError as error:
        raise InputError(f"{str(path)!r} can't be read: {error.strerror}", hint="check the path") from error
    except MissingError:
        raise
    except Exception as error:  # PyYAML's errors share no base class with the others.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{str(path)!r} is not {kind}: {reason}", hint="name a run's config") from error
    if not isinstance(values, dict) or not values:
        raise InputError(f"{str(path)!r} holds no settings", limit="names and values", hint="name a run's config")
    return values


def _refuse_endless(values: Any) -> None:
    level, count = [values] if isinstance(values, (dict, list)) else [], 0
    for _ in range(_DEEPEST):
        inner = [list(entry.values() if isinstance(entry, dict) else entry) for entry in level]
        count += sum(map(len, inner))
        if count > _MOST:
            raise ValueError(f"it holds over {_MOST:,} values")
        level = [value for entries in inner for value in entries if isinstance(value, (dict, list))]
        if not level:
            return
    raise ValueError(f"it is nested over {_DEEPEST} deep")


def _parser(kind: str) -> Callable[[str], Any]:
    if kind == "YAML":
        try:
            parse: Callable[[str], Any] = require("yaml").safe_load
        except MissingError as error:
            # No extra of this package brings it.
            raise MissingError("YAML needs PyYAML, which does not import", hint="pip install pyyaml") from error
        return parse
    return tomllib.loads if kind == "TOML" else json.loads


def _is_alignn(values: Mapping[str, Any]) -> bool:
    model = values.get("model")
    return bool(_ALIGNN_KEYS & set(values)) or (isinstance(model, Mapping) and model.get("name") in tuple(MODELS))


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Add what alignn itself would; without alignn, or where it refuses a value, leave all as it is."""
    try:
        config = require("alignn.config").TrainingConfig
        known = {key: value for key, value in values.items() if key in config.model_fields}
        defaults = config(**known).model_dump()
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
        return tuple(str(name) for name in json.loads(read_text(path, most=_SAMPLES))["id_train"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{str(path)!r} lists no samples: {type(error).__name__}",
            limit="a list id_train, as alignn writes it",
            hint="mend the file or name the config alone, outside its folder",
        ) from error
