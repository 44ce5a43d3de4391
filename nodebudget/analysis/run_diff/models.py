"""What a model keeps on the device between steps, counted on alignn's own models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodebudget.errors import MissingError
from nodebudget.utils.optional_imports import require

#: alignn's name of a model → its module and class; the settings are the class of that name with "Config" after it.
MODELS = {
    "alignn": ("alignn.models.alignn", "ALIGNN"),
    "alignn_atomwise": ("alignn.models.alignn_atomwise", "ALIGNNAtomWise"),
    "alignn_atomwise_pure": ("alignn.models.alignn_atomwise_pure", "ALIGNNAtomWisePure"),
    "alignn_atomwise_pure_smooth": ("alignn.models.alignn_atomwise_pure_smooth", "ALIGNNAtomWisePureSmooth"),
    "ealignn_atomwise": ("alignn.models.ealignn_atomwise", "eALIGNNAtomWise"),
}

#: Numbers that an optimizer keeps for each parameter; alignn's SGD has a momentum.
STATES = {"adamw": 2, "adam": 2, "sgd": 1}

#: Bytes of a number, by the names that configs use.
WIDTHS = {
    **{"float64": 8, "double": 8, "float32": 4, "float": 4},
    **{"float16": 2, "half": 2, "bfloat16": 2, "bfloat": 2},
}


def count_parameters(model: Mapping[str, Any]) -> int | None:
    """Build one of alignn's models and count its parameters.

    Args:
        model: The part `model` of alignn's config.

    Returns:
        The count, or None where alignn is not there or takes no such settings.
    """
    if model.get("name") not in tuple(MODELS):
        return None
    module_name, class_name = MODELS[model["name"]]
    try:
        module, torch = require(module_name), require("torch")
        config = getattr(module, f"{class_name}Config")(**model)
        # Building a model draws its weights: the caller's random numbers stay as they were.
        with torch.random.fork_rng(devices=[]):
            built = getattr(module, class_name)(config)
    except (MissingError, ValueError, TypeError, RuntimeError, AttributeError, ZeroDivisionError):
        return None
    return sum(int(parameter.numel()) for parameter in built.parameters())


def kept_numbers(optimizer: object) -> int:
    """Return the numbers kept for each parameter: itself, its gradient and the optimizer's (AdamW's if unknown)."""
    return 2 + STATES.get(str(optimizer).lower(), 2)


def width_of(dtype: object) -> int | None:
    """Return the bytes of a number of this type, or None."""
    return WIDTHS.get(str(dtype).lower().removeprefix("torch."))
