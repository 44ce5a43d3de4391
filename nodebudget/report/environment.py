"""What this machine has and lacks."""

from __future__ import annotations

from nodebudget.analysis.environment import Examination
from nodebudget.report.report import Report, Table


def examination_report(examination: Examination) -> Report:
    """Report on what was checked, and on what to install next."""
    head = ["what", "state", "details", "needed for"]
    rows = [[check.name, check.state, check.details, check.purpose] for check in examination.checks]
    notes = [f"For {check.name}: {check.next_step}" for check in examination.checks if check.next_step]
    if not examination.blocking:
        notes.append(f"'nodebudget calibrate' can run on {examination.device}.")
    return Report("Environment", tables=[Table(head, rows, prose=head)], notes=notes)
