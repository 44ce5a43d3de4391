"""Equivalent and safe batch sizes, one for each target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nodebudget.report.formats import mean_std
from nodebudget.report.report import Advice, Report, Table
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label

if TYPE_CHECKING:
    from nodebudget.analysis.equivalent_batch_size import LearningRate, Suggestion
    from nodebudget.analysis.safe_batch_size import Risk


@dataclass(frozen=True)
class Answer:
    """What is known of one target."""

    name: str  #: What the user calls it.
    suggestion: Suggestion  #: The equivalent batch size.
    learning_rate: LearningRate  #: What it means for the learning rate.
    risk: Risk | None = None  #: What fits a memory, or None where none was given.

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "target": self.name,
            **self.suggestion.to_dict(),
            "learning_rate": self.learning_rate.to_dict(),
            "risk": None if self.risk is None else self.risk.to_dict(),
        }


def suggestion_report(answers: Sequence[Answer]) -> Report:
    """Report on the answers for a terminal: what equals what, why, the learning rate, and what is safe."""
    several = len(answers) > 1
    if several:
        head = ["dataset", "batch size", *(f"equal {size_label(name)}" for name in answers[0].suggestion.by)]
        rows = [_cells(answer) for answer in answers]
    else:
        head, by = ["equal in", "batch size"], answers[0].suggestion.by
        rows = [[size_label(name), _or_dash(value)] for name, value in by.items()]
    texts = []
    for answer in answers:
        rates = answer.learning_rate.sentences if answer.learning_rate.ratio != 1 else ()
        safe = [_risk_text(answer.risk)] if answer.risk is not None else []
        texts += [(answer.name, text) for text in (answer.suggestion.sentence, *rates, *safe)]
    risks = [(answer.name, answer.risk) for answer in answers if answer.risk is not None]
    return Report(
        "Suggestion",
        tables=[Table(head, rows), *([_risks(risks)] if risks else [])],
        advice=[Advice("note", f"{name}: {text}" if several else text) for name, text in texts],
    )


def answers_table(answers: Sequence[Answer]) -> Table:
    """Return the answers as one table, a row for each target: for a paper's appendix."""
    risky = any(answer.risk is not None for answer in answers)
    head = ["dataset", "batch size", *(f"equal {size_label(name)}" for name in answers[0].suggestion.by)]
    head += ["memory", "largest safe batch size", "graphs per budget batch"] if risky else []
    rows = []
    for answer in answers:
        risk = answer.risk
        safe = ["-"] * 3
        if risk is not None:
            safe = [format_bytes(risk.memory), str(risk.batch_size), mean_std(*risk.budget_graphs)]
        rows.append([*_cells(answer), *(safe if risky else [])])
    return Table(head, rows)


def _cells(answer: Answer) -> list[str]:
    return [answer.name, str(answer.suggestion.batch_size), *map(_or_dash, answer.suggestion.by.values())]


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _risks(risks: Sequence[tuple[str, Risk]]) -> Table:
    rows = []
    for name, risk in risks:
        fixed, budget = (risk.mean_bytes, risk.max_bytes), (risk.budget_bytes, risk.budget_max)
        rows.append([f"{name}, fixed", f"{risk.batch_size:,}", *map(format_bytes, fixed)])
        rows.append([f"{name}, budget", mean_std(*risk.budget_graphs), *map(format_bytes, budget)])
    head = ["batches", "graphs per batch", "mean peak", "max peak of an epoch"]
    return Table(head, rows, f"Batches that fit in {format_bytes(risks[0][1].memory)}")


def _risk_text(risk: Risk) -> str:
    trial = risk.trial
    if risk.confirmed:
        shown = f"{trial.failures} of {trial.epochs:,} simulated epochs did not fit; 95% upper bound {trial.upper:.2%}"
    else:
        shown = f"from the distribution of sums, consistent with {trial.epochs} simulated epochs"
    return (
        f"With a fixed batch size of up to {risk.batch_size:,} every batch of an epoch fits in "
        f"{format_bytes(risk.memory)} with probability {risk.probability:g} ({shown}). A normal approximation gives "
        f"{risk.by_normal:,}. With a budget of the same memory a batch has {risk.budget_graphs[0]:,.1f} graphs, "
        f"{risk.gain:.2f} times as many, and no batch is predicted to exceed it."
    )
