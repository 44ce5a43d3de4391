"""Answers from sizes, plans and calibrations, each a value: equivalent batch sizes, comparisons, breakdowns, tuning."""
