"""Every error that nodebudget raises on purpose, on one page.

The tree, with exit codes of the command line::

    NodeBudgetError                2
    ├── InputError (ValueError)    2  a file, an option or an array that can't be used
    │   ├── RecordError            2  a record of another kind, schema version, device or model
    │   └── CrystalError           2  one crystal of a dataset that can't be read
    ├── WorkloadError              2  the user's training step raised
    ├── DoesNotFitError            1  the budget can't hold what was asked
    │   └── OversizedError         1  single graphs over the budget
    └── MissingError               3  a package or a device that is missing

Each says what was wrong, the value, the limit and the next step.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text with characters that control a terminal (line ends, escapes, reversed writing) as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def printable_lines(text: str) -> str:
    """Do the same to a text of several lines, whose line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, up to 200 characters."""
    try:
        return (str(error).strip().splitlines() or [""])[0][:200]
    except Exception:  # an exception of the user's whose text can't be made
        return ""


class NodeBudgetError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What was wrong, with the value in it, without a full stop.
        limit: What would have been right.
        hint: What to do next.
    """

    exit_code = 2

    def __init__(self, what: str, *, limit: str = "", hint: str) -> None:
        self.what, self.limit, self.hint = what, limit, hint
        super().__init__(what, limit, hint)

    def __str__(self) -> str:
        head = f"{self.what} ({self.limit})" if self.limit else self.what
        return printable(f"{head}; {self.hint}")

    def __reduce__(self) -> tuple[object, ...]:
        # For worker processes: the default protocol loses keyword arguments.
        return _rebuild, (type(self), self.what, self.limit, self.hint, self.__dict__)


def _rebuild(
    kind: type[NodeBudgetError], what: str, limit: str, hint: str, state: dict[str, object]
) -> NodeBudgetError:
    error = kind.__new__(kind)
    NodeBudgetError.__init__(error, what, limit=limit, hint=hint)
    error.__dict__.update(state)
    return error


class InputError(NodeBudgetError, ValueError):
    """A file, an option or an array that can't be used."""


class RecordError(InputError):
    """A record of another kind, schema version, device or model than asked for."""


class CrystalError(InputError):
    """One crystal that can't be read.

    Attributes:
        index: Position in the dataset, from 0.
        name: Its id, or "".
        reason: What is wrong with it.
    """

    def __init__(self, index: int, name: str, reason: str) -> None:
        self.index, self.name, self.reason = index, name, reason
        label = f" ({name})" if name else ""
        super().__init__(
            f"crystal {index}{label} can't be read: {reason}",
            hint="mend or remove it, or skip such crystals: nodebudget measure --on-error skip (on_error='skip')",
        )


class WorkloadError(NodeBudgetError):
    """The user's model, collate function or training step raised."""


class DoesNotFitError(NodeBudgetError):
    """The budget can't hold what was asked."""

    exit_code = 1


class OversizedError(DoesNotFitError):
    """Single graphs are over the budget.

    Attributes:
        indices: Positions of all oversized graphs in the dataset, ascending.
    """

    def __init__(self, what: str, *, indices: list[int], limit: str = "", hint: str) -> None:
        self.indices = indices
        super().__init__(what, limit=limit, hint=hint)


class MissingError(NodeBudgetError):
    """A package or a device that is missing."""

    exit_code = 3
