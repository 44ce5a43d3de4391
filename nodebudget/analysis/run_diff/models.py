"""Parameters of alignn's models, and the bytes that a model keeps on the device for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodebudget.errors import MissingError
from nodebudget.utils.optional_imports import require

#: alignn's name of a model → its module and class; the settings class has "Config" appended.
MODELS = {
    "alignn": ("alignn.models.alignn", "ALIGNN"),
    "alignn_atomwise": ("alignn.models.alignn_atomwise", "ALIGNNAtomWise"),
    "alignn_atomwise_pure": ("alignn.models.alignn_atomwise_pure", "ALIGNNAtomWisePure"),
    "alignn_atomwise_pure_smooth": ("alignn.models.alignn_atomwise_pure_smooth", "ALIGNNAtomWisePureSmooth"),
    "ealignn_atomwise": ("alignn.models.ealignn_atomwise", "eALIGNNAtomWise"),
}

#: State tensors of an optimizer for each parameter; alignn's SGD has a momentum.
_STATES = {"adamw": 2, "adam": 2, "sgd": 1}

#: Bytes of a number, by the names that configs use.
_WIDTHS = {
    **dict.fromkeys(("float64", "double"), 8),
    **dict.fromkeys(("float32", "float"), 4),
    **dict.fromkeys(("float16", "half", "bfloat16", "bfloat"), 2),
}


def count_parameters(model: Mapping[str, Any]) -> int | None:
    """Build one of alignn's models and count its parameters.

    Args:
        model: The section `model` of alignn's config.

    Returns:
        The count, or None if alignn is not installed or refuses the settings.
    """
    if model.get("name") not in tuple(MODELS):
        return None
    module_name, class_name = MODELS[model["name"]]
    try:
        module, torch = require(module_name), require("torch")
        config = getattr(module, f"{class_name}Config")(**model)
        # Building a model draws its weights; the caller's random state must not change.
        with torch.random.fork_rng(devices=[]):
            built = getattr(module, class_name)(config)
    except (MissingError, ValueError, TypeError, RuntimeError, AttributeError, ZeroDivisionError):
        return None
    return sum(int(parameter.numel()) for parameter in built.parameters())


def numbers_per_parameter(optimizer: object) -> int:
    """Return how many numbers exist per parameter: itself, its gradient, and optimizer state (AdamW's if unknown)."""
    return 2 + _STATES.get(str(optimizer).lower(), 2)


def bytes_per_number(dtype: object) -> int | None:
    """Return the bytes of a number of a dtype given by name, or None for an unknown one."""
    return _WIDTHS.get(str(dtype).lower().removeprefix("torch."))
