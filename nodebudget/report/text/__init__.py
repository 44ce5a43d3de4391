"""Reports as text: for a terminal, for a paper, and live."""
