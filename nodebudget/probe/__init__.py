"""What one training step takes at its peak."""

from __future__ import annotations

from nodebudget.probe.base import Peak, Probe, ScriptedProbe
from nodebudget.probe.open import open_probe

__all__ = ["Peak", "Probe", "ScriptedProbe", "open_probe"]
