"""The reason why one sample of a dataset has no sizes."""


class SampleError(ValueError):
    """A sample that can't be read or counted; the message gives the reason in one sentence."""
