"""Errors of commands name options; those of functions name arguments."""

from __future__ import annotations

import importlib

import pytest

from nodebudget.cli.command import name_options


@pytest.mark.parametrize(
    ("command", "text", "shown"),
    [
        ("plan", "max_nodes is -3 (a number); give the maximum", "--max-nodes is -3 (a number); give the maximum"),
        ("plan", "give max_edges or max_graphs.", "give --max-edges or --max-graphs."),
        ("plan", "num_replicas is 0", "--ranks is 0"),
        ("plan", "seed is -1; choose a seed", "--seed is -1; choose a seed"),
        (
            "plan",
            "raise the budget, or pass oversized='skip' or 'alone'",
            "raise the budget, or pass --oversized skip or 'alone'",
        ),
        ("plan", "'a/max_nodes.npz', max_nodes.npz and max_nodes=", "'a/max_nodes.npz', max_nodes.npz and max_nodes="),
        (
            "measure",
            "skip it: nodebudget measure --on-error skip (on_error='skip')",
            "skip it: nodebudget measure --on-error skip",
        ),
        ("measure", "or raise --max-expansion (ReadLimits(max_expansion=...))", "or raise --max-expansion"),
        ("measure", "pass allow_pickle=True, or try workers=0", "pass --allow-pickle, or try --workers 0"),
        ("train_alignn", "graphs_per_step is 0", "--graphs-per-step is 0"),
    ],
)
def test_options_in_place_of_arguments(command: str, text: str, shown: str) -> None:
    assert name_options(text, importlib.import_module(f"nodebudget.cli.{command}").command) == shown
