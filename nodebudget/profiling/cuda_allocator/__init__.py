"""A model of PyTorch's CUDA caching allocator, and replaying a traced step through it."""
