"""The version of this package, read by everything that writes a record."""

__version__ = "0.1.0"
