"""Every error that nodebudget raises on purpose, on one page.

As a tree, with their exit codes::

    NodeBudgetError                exit code 2
    ├── InputError                 2  a file, an option or an array that can't be used
    │   ├── RecordError            2  a record of another kind, schema version, device or model
    │   └── CrystalError           2  one crystal of a dataset that can't be read
    ├── WorkloadError              2  the user's training step raised
    ├── DoesNotFitError            1  the budget can't hold what was asked
    │   └── OversizedError         1  single graphs over a cap
    └── MissingError               3  a package or a device that is not there

Each says what was wrong, the value, the limit and the next step, in one sentence each.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text with what a terminal would obey (line ends, escapes, reversed writing) written out as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def printable_lines(text: str) -> str:
    """Return a text of several lines with all else that a terminal would obey written out as escapes."""
    return "\n".join(map(printable, text.split("\n")))


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, up to 200 characters."""
    return (str(error).strip().splitlines() or [""])[0][:200]


class NodeBudgetError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What was wrong, with the offending value in it, without a full stop.
        limit: What would have been right.
        hint: What to do next. Every error has one.
    """

    exit_code = 2

    def __init__(self, what: str, *, limit: str = "", hint: str) -> None:
        self.what, self.limit, self.hint = what, limit, hint
        super().__init__(what, limit, hint)

    def __str__(self) -> str:
        head = f"{self.what} ({self.limit})" if self.limit else self.what
        return printable(f"{head}; {self.hint}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (worker pools), where the default protocol forgets keywords.
        return _rebuild, (type(self), self.what, self.limit, self.hint, self.__dict__)


def _rebuild(
    kind: type[NodeBudgetError], what: str, limit: str, hint: str, state: dict[str, object]
) -> NodeBudgetError:
    error = kind.__new__(kind)
    NodeBudgetError.__init__(error, what, limit=limit, hint=hint)
    error.__dict__.update(state)
    return error


class InputError(NodeBudgetError):
    """A file, an option or an array that can't be used."""


class RecordError(InputError):
    """A record of another kind, schema version, device or model than asked for."""


class CrystalError(InputError):
    """One crystal that can't be read.

    Attributes:
        index: Position in the dataset, counted from 0.
    """

    def __init__(self, index: int, name: str, reason: str) -> None:
        self.index, self.name, self.reason = index, name, reason
        label = f" ({name})" if name else ""
        super().__init__(
            f"crystal {index}{label} can't be read: {reason}",
            hint="mend or remove it, or leave such crystals out: nodebudget measure --on-error skip (on_error='skip')",
        )


class WorkloadError(NodeBudgetError):
    """The user's model, batch maker or training step raised."""


class DoesNotFitError(NodeBudgetError):
    """The budget can't hold what was asked."""

    exit_code = 1


class OversizedError(DoesNotFitError):
    """Single graphs are over a cap.

    Attributes:
        indices: Positions of all oversized graphs, ascending.
    """

    def __init__(self, what: str, *, indices: list[int], limit: str = "", hint: str) -> None:
        self.indices = indices
        super().__init__(what, limit=limit, hint=hint)


class MissingError(NodeBudgetError):
    """A package or a device that is not there."""

    exit_code = 3
