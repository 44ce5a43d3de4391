"""How alignn turns a crystal into a graph: what its sizes depend on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nodebudget.errors import InputError
from nodebudget.utils.checks import check_choice, check_count
from nodebudget.utils.files import read_text

#: Strategies that are counted without building a graph, and those whose graphs alignn has to build.
FAST = ("k-nearest", "radius_graph")
BUILT = ("fast_graph", "torch_graph", "pure_torch", "radius_graph_jarvis")
STRATEGIES = FAST + BUILT

#: Strategies that join all atoms within the cutoff: alignn ignores max_neighbors, which may be None.
UNLIMITED = ("radius_graph", "radius_graph_jarvis")

#: Version of the counting: a new one, where the same crystal would get other counts, invalidates cached sizes.
COUNTING = 2

#: alignn's name of each setting in its config.json, and the default of its TrainingConfig.
_ALIGNN = {
    "strategy": ("neighbor_strategy", "k-nearest"),
    "cutoff": ("cutoff", 5.0),
    "neighbors": ("max_neighbors", 12),
    "canonize": ("use_canonize", True),
    "cutoff_extra": ("cutoff_extra", 3.0),
    "three_body_cutoff": ("three_body_cutoff", 3.5),
}


@dataclass(frozen=True)
class GraphSettings:
    """The options of alignn's `Graph.atom_dgl_multigraph` that change the number of edges.

    Attributes:
        strategy: alignn's `neighbor_strategy`. "k-nearest" and "radius_graph" are counted without building
            a graph; the others by building alignn's own, which takes tens of times longer.
        cutoff: Å; the first search radius of k-nearest, or the radius.
        neighbors: alignn's `max_neighbors`; None: no limit, with strategies that join all atoms within the cutoff.
        canonize: alignn's `use_canonize`; only k-nearest uses it.
        cutoff_extra: Å by which "radius_graph" increases the cutoff while the last atom has no neighbour.
        three_body_cutoff: Å, for "pure_torch"; None: the cutoff.

    Raises:
        InputError: A setting is not what alignn takes.
    """

    strategy: str = "k-nearest"
    cutoff: float = 8.0
    neighbors: int | None = 12
    canonize: bool = True
    cutoff_extra: float = 3.0
    three_body_cutoff: float | None = None

    def __post_init__(self) -> None:
        check_choice("strategy", self.strategy, STRATEGIES)
        if self.neighbors is not None or self.strategy not in UNLIMITED:
            object.__setattr__(self, "neighbors", check_count("neighbors", self.neighbors, 1))
        if not isinstance(self.canonize, bool):
            raise InputError(
                f"canonize is {self.canonize!r}", limit="true or false", hint="alignn's usual setting is true"
            )
        for name in ("cutoff", "cutoff_extra", "three_body_cutoff"):
            value: object = getattr(self, name)
            if name == "three_body_cutoff" and value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator]
                raise InputError(
                    f"{name} is {value!r}", limit="a length in Å over 0", hint="8 is alignn's usual cutoff"
                )

    @classmethod
    def from_alignn_config(cls, config: str | os.PathLike[str] | Mapping[str, Any]) -> GraphSettings:
        """Take the settings of an alignn run, with alignn's own defaults where it names none.

        Args:
            config: The run's config.json, or its content.

        Raises:
            InputError: The file is missing or not a config, or a setting is not what alignn takes.
        """
        values = config if isinstance(config, Mapping) else _read_config(config)
        settings = {name: values.get(theirs, default) for name, (theirs, default) in _ALIGNN.items()}
        neighbors = settings["neighbors"]
        if isinstance(neighbors, str) and neighbors.strip().isdigit():
            settings["neighbors"] = int(neighbors)  # alignn's config takes both
        return cls(**settings)

    def to_alignn(self) -> dict[str, Any]:
        """Return the settings by the names that alignn has for them."""
        return {theirs: getattr(self, name) for name, (theirs, _) in _ALIGNN.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for records."""
        return asdict(self)


def _read_config(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        values = json.loads(read_text(path))
    except OSError as error:
        raise InputError(f"{str(path)!r} can't be read: {error.strerror}", hint="check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}", hint="name alignn's config.json") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{str(path)!r} is not an alignn config", limit="one JSON object", hint="name alignn's config.json"
        )
    return values
