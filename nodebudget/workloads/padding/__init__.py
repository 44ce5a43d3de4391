"""Batches padded to a static shape: one more graph takes up what is left."""
