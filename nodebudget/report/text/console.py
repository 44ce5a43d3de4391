"""The console on which tables are drawn, whatever is in them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from nodebudget.errors import printable_lines


class PlainConsole(Console):
    """A console that shows texts as they are: no markup, no emoji, no control characters.

    Args:
        **options: Those of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of a string, such as a cell of a table."""
        return super().render_str(printable_lines(text), **options)
