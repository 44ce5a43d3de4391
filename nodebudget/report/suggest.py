"""Equivalent and safe batch sizes: for a terminal, and as a table for a paper's appendix."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nodebudget.report.text import render, suggestion_text, table_of
from nodebudget.utils.byte_units import format_bytes
from nodebudget.utils.size_labels import size_label

if TYPE_CHECKING:
    from nodebudget.analysis.equivalent_batch_size import LearningRate, Suggestion
    from nodebudget.analysis.safe_batch_size import Risk

#: Formats of the table for a paper.
FORMATS = ("md", "csv", "latex")

_BASES = ("nodes", "edges", "line_edges", "bytes")
_LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}"}


@dataclass(frozen=True)
class Answer:
    """What is known about one target.

    Attributes:
        name: What the user calls it.
        suggestion: The equivalent batch size.
        learning_rate: What it means for the learning rate.
        risk: What fits a memory, or None where none was given.
    """

    name: str
    suggestion: Suggestion
    learning_rate: LearningRate
    risk: Risk | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "target": self.name,
            **self.suggestion.to_dict(),
            "learning_rate": self.learning_rate.to_dict(),
            "risk": None if self.risk is None else self.risk.to_dict(),
        }


def answers_text(answers: Sequence[Answer]) -> str:
    """Describe answers for people."""
    if len(answers) == 1:
        parts = [suggestion_text(answers[0].suggestion)]
    else:
        head, rows = _table(answers)
        own = len(_BASES) + 2
        parts = [render(table_of(head[:own], [row[:own] for row in rows]), width=140)]
        parts += [f"{answer.name}: {answer.suggestion.sentence}" for answer in answers]
    for answer in answers:
        if answer.learning_rate.ratio != 1:
            parts += [_named(answers, answer, sentence) for sentence in answer.learning_rate.sentences]
    risks = [answer for answer in answers if answer.risk is not None]
    if risks:
        parts += [_risk_table(risks), *(_risk_sentence(answer.name, answer.risk) for answer in risks if answer.risk)]
    return "\n".join(parts)


def answers_table(answers: Sequence[Answer], style: str) -> str:
    """Return the answers as a table for a paper's appendix.

    Args:
        answers: One a target.
        style: "md", "csv" or "latex" (with the package booktabs).
    """
    head, rows = _table(answers)
    if style == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([head, *rows])
        return buffer.getvalue().rstrip("\n")
    return _markdown(head, rows) if style == "md" else _latex(head, rows)


def _named(answers: Sequence[Answer], answer: Answer, sentence: str) -> str:
    return sentence if len(answers) == 1 else f"{answer.name}: {sentence}"


def _table(answers: Sequence[Answer]) -> tuple[list[str], list[list[str]]]:
    risky = any(answer.risk is not None for answer in answers)
    head = ["dataset", "batch size", *(f"equal {size_label(name)}" for name in _BASES)]
    head += ["memory", "largest safe batch size", "graphs a budget batch"] if risky else []
    rows = []
    for answer in answers:
        by = answer.suggestion.by
        row = [answer.name, str(answer.suggestion.batch_size), *(_cell(by[name]) for name in _BASES)]
        rows.append(row + (_risk_cells(answer.risk) if risky else []))
    return head, rows


def _cell(value: int | None) -> str:
    return "-" if value is None else str(value)


def _risk_cells(risk: Risk | None) -> list[str]:
    if risk is None:
        return ["-", "-", "-"]
    mean, std = risk.budget_graphs
    return [format_bytes(risk.memory), str(risk.batch_size), f"{mean:.1f} ± {std:.1f}"]


def _risk_table(answers: Sequence[Answer]) -> str:
    rows = []
    for answer in answers:
        risk = answer.risk
        assert risk is not None
        mean, std = risk.budget_graphs
        rows.append([f"{answer.name}, fixed", f"{risk.batch_size:,}", format_bytes(risk.mean_bytes)])
        rows[-1].append(format_bytes(risk.max_bytes))
        rows.append([f"{answer.name}, budget", f"{mean:,.1f} ± {std:.1f}", format_bytes(risk.budget_bytes)])
        rows[-1].append(format_bytes(risk.budget_max))
    return render(table_of(["batches", "graphs a batch", "mean batch takes", "worst of an epoch"], rows), width=120)


def _risk_sentence(name: str, risk: Risk) -> str:
    mean, _ = risk.budget_graphs
    trial = risk.trial
    if risk.confirmed:
        shown = (
            f"{trial.failures} of {trial.epochs:,} simulated epochs did not fit, at most {trial.upper:.2%} with 95% "
            "confidence"
        )
    else:
        shown = (
            f"by the distribution of sums, which {trial.epochs} simulated epochs do not contradict; more would take "
            "minutes"
        )
    return (
        f"{name}: in {format_bytes(risk.memory)} every batch of an epoch fits with probability {risk.probability:g} "
        f"up to a fixed batch size of {risk.batch_size:,} ({shown}); a normal approximation would have said "
        f"{risk.by_normal:,}. A budget of the same memory has {mean:,.1f} graphs a batch, {risk.gain:.2f} times as "
        "many, and none of them is predicted to go over."
    )


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _latex(head: list[str], rows: list[list[str]]) -> str:
    start = r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}"
    first, *others = (" & ".join(map(_escaped, line)) + r" \\" for line in (head, *rows))
    return "\n".join([start, r"\toprule", first, r"\midrule", *others, r"\bottomrule", r"\end{tabular}"])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text).replace(" ± ", r" $\pm$ ")
