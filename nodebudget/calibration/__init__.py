"""A memory model from measured training steps: which batches to probe, running them, fitting, and where it holds."""
