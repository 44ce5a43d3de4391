"""Ranks of a sampler and of the process group: where they differ, graphs would be trained on twice or never."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from paths import FIXTURES, ROOT

#: How it was made → kind of loader → what came of iterating it.
Outcomes = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcomes]:
    folder = tmp_path_factory.mktemp("group")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(FIXTURES)]), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(FIXTURES / "late_group.py"), str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("before", "rank 0 of 1, this process is rank {rank} of 2"),
        ("too many", "rank {rank} of 3, this process is rank {rank} of 2"),
        ("swapped", "rank {other} of 2, this process is rank {rank} of 2"),
    ],
)
def test_other_ranks_raise_with_both_numbers(made: str, message: str, outcomes: list[Outcomes]) -> None:
    for rank, by_name in enumerate(outcomes):
        for kind, outcome in by_name[made].items():
            assert message.format(rank=rank, other=1 - rank) in outcome, (kind, outcome)


@pytest.mark.parametrize("made", ["after", "given", "one group"])
def test_its_ranks_or_those_of_groups_train(made: str, outcomes: list[Outcomes]) -> None:
    for by_name in outcomes:
        assert all(outcome.endswith(" batches") for outcome in by_name[made].values()), by_name[made]
