"""What was measured before: sizes beside the data, the fingerprint of a dataset, and a checkpoint of a measurement."""
