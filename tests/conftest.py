"""What all tests share."""

from __future__ import annotations

import os

# Before torch is imported: the steps here are so small that threads of two libraries waiting for each other cost more
# than they bring, a hundred times more on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# Examples a law is tried on: NODEBUDGET_EXAMPLES=1000, or --hypothesis-profile=thorough, for a long look.
settings.register_profile("usual", max_examples=int(os.environ.get("NODEBUDGET_EXAMPLES", "100")), deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("usual")
