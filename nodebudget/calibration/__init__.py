"""From measured training steps to a memory model: which batches to probe, running them, fitting, and where the fit holds."""
