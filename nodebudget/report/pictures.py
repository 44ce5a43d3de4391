"""Values in, pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from nodebudget.utils.optional_imports import require

# Two colours that stay apart for colour-blind eyes (Okabe and Ito, 2008) and in grey print.
_COLOURS = {"fixed": "#d55e00", "budget": "#0072b2"}


def draw_runs(rows: Sequence[Mapping[str, Any]], memory: int, file: BinaryIO, *, caption: str = "") -> None:
    """Draw the measured peak of every batch, fixed batch size against budget, one panel a dataset.

    Args:
        rows: Runs as `nodebudget.analysis.quickstart` makes them.
        memory: The budget, bytes: drawn as a line.
        file: Where the PNG goes.
        caption: Said under the panels: what was measured on what.

    Raises:
        MissingError: matplotlib is not there.
    """
    require("matplotlib").use("Agg")
    pyplot = require("matplotlib.pyplot")
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(datasets), figsize=(5.2 * len(datasets), 3.9), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, dataset in zip(axes[0], datasets, strict=True):
        _panel(axis, dataset, [row for row in rows if row["dataset"] == dataset], memory)
    axes[0][0].set_ylim(0, 1.25 * max(memory, *(max(row["measured_peaks"]) for row in rows)) / 2**30)
    axes[0][0].set_ylabel("measured peak of a training step, GiB")
    if caption:
        figure.supxlabel(caption, fontsize=8, color="#555555")
    figure.savefig(file, format="png", dpi=130)
    pyplot.close(figure)


def _panel(axis: Any, dataset: str, rows: Sequence[Mapping[str, Any]], memory: int) -> None:
    axis.axhline(memory / 2**30, color="#555555", linewidth=1, linestyle="--", label="the budget")
    for row in rows:
        peaks = [peak / 2**30 for peak in row["measured_peaks"]]
        label = f"{row['label']}: CV {row['measured_bytes']['cv']:.1%}"
        axis.plot(
            range(1, len(peaks) + 1),
            peaks,
            marker="o",
            markersize=4,
            color=_COLOURS[row["batching"]],
            label=label,
        )
    axis.set_title(dataset, fontsize=11)
    axis.set_xlabel("batch")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axis.legend(frameon=False, fontsize=9, loc="upper right", ncols=1)
