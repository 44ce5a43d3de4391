"""Watching a running training: peak memory per step beside the prediction, warnings, and out-of-memory errors."""
