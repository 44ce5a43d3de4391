"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# Examples a law is tried on: NODEBUDGET_EXAMPLES=1000, or --hypothesis-profile=thorough, for a long look.
settings.register_profile("usual", max_examples=int(os.environ.get("NODEBUDGET_EXAMPLES", "100")), deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("usual")
