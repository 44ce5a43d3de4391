"""Packing: arrays in, batches out. Plain numpy, whole numbers, no torch."""
