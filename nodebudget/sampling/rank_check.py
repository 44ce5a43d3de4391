"""Whether all ranks of torch.distributed have planned the same batches."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nodebudget.errors import InputError
from nodebudget.sampling.epoch import EpochProgress
from nodebudget.utils.distributed import differing_ranks
from nodebudget.utils.version import __version__


def check_ranks(progress: EpochProgress, start: int, hashes: Mapping[str, str]) -> None:
    """Compare the plans of all ranks; a collective of the default process group.

    Args:
        progress: The epoch with its plan.
        start: Batches of the epoch that this rank has consumed.
        hashes: See `nodebudget.sampling.state.fingerprints`.

    Raises:
        InputError: They differ; on every rank, before any of them takes a step. Else ranks would train on some crystals
            twice and on others never, or wait for each other for ever.
    """
    config = progress.provider.config
    settings = [hashes["settings"], config.budget.to_dict()]
    differing = differing_ranks(
        {
            "the dataset, or its order": hashes["data"],
            "the budget, pack, shuffle, oversized or balance": json.dumps(settings, sort_keys=True),
            "the seed": str(config.seed),
            "the epoch (set_epoch)": str(progress.epoch),
            "the batches consumed": json.dumps([start, progress.history()], sort_keys=True),
            "the version of nodebudget": __version__,
            "the batches": progress.plan.fingerprint(),
        }
    )
    if len(differing) > 1:
        # A consequence of the others.
        differing.pop("the batches", None)
    if differing:
        parts = [f"{name} (rank {', '.join(map(str, ranks))})" for name, ranks in differing.items()]
        raise InputError(
            f"the ranks have planned different batches; different from rank 0: {'; '.join(parts)}",
            limit="every rank must have the same plan",
            hint="make the sampler alike on every rank, from the same dataset in the same order",
        )
