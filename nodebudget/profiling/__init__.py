"""Measuring one training step on one device: peak memory, phases, and a model of the CUDA allocator."""
