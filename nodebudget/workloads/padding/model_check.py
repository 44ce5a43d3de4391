"""Networks in which the padding of a batch would be seen by its real graphs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from nodebudget.errors import InputError

#: Settings of alignn's networks by which a graph's output depends on the whole batch, and why.
_SETTINGS = {
    "force_mult_natoms": "multiplies forces by the number of atoms of the batch",
    "include_pos_deriv": "multiplies energies by the number of atoms of the batch",
}


def check_padding(model: torch.nn.Module, *, exact: bool = True) -> None:
    """Look for layers and settings by which padding changes the outputs of real graphs.

    These are batch normalization, whose means run over padding as well; PyTorch Geometric's normalization over all
    nodes of a batch (`LayerNorm(mode="graph")`, which is per graph only where it is called with `batch`); and settings
    of alignn's networks that depend on the whole batch. What a `forward` does beyond its layers is not looked at:
    compare a padded and an unpadded batch to find it. Warns (UserWarning) of settings that matter for some data only.

    Args:
        model: The network.
        exact: False warns instead of raising.

    Raises:
        InputError: There are such layers or settings.
    """
    for sentence in _data_dependent(model):
        warnings.warn(f"padding changes the forces of real graphs {sentence}", UserWarning, stacklevel=2)
    reasons = list(_reasons(model))
    if not reasons:
        return
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    if exact:
        raise InputError(
            f"padding would change the outputs of real graphs: {shown}",
            limit="the outputs of a graph must not depend on the rest of its batch",
            hint="use LayerNorm or normalization per graph, or accept it with exact=False",
        )
    warnings.warn(f"padding changes the outputs of real graphs: {shown}", UserWarning, stacklevel=2)


def _reasons(model: torch.nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            yield f"{where} averages over padding as well"
        elif getattr(module, "mode", None) == "graph" and "norm" in type(module).__name__.lower():
            yield f"{where} may average over padding as well"
        if (config := _force_config(module)) is not None:
            settings = [setting for setting in _SETTINGS if getattr(config, setting, False)]
            yield from (f"{setting} of {where} {_SETTINGS[setting]}" for setting in settings)
            if getattr(config, "stresswise_weight", 0) and getattr(config, "batch_stress", True) is False:
                yield f"batch_stress of {where} is off, so that it has one stress for the whole batch"


def _data_dependent(model: torch.nn.Module) -> Iterator[str]:
    """Yield under what condition on the data padding is seen: alignn adds some energies of a batch to every graph."""
    for module in model.modules():
        if (config := _force_config(module)) is None:
            continue
        if getattr(config, "use_penalty", False):
            yield f"where a bond is shorter than {config.penalty_threshold:g} Å; set use_penalty=False to avoid it"
        if getattr(module, "use_zbl", False):
            yield f"where a bond is shorter than {config.zbl_cutoff:g} Å; set use_zbl=False to avoid it"


def _force_config(module: torch.nn.Module) -> Any:
    """Return the config of a network of alignn that is trained on forces, or None."""
    config = getattr(module, "config", None)
    return config if getattr(config, "calculate_gradient", False) else None
