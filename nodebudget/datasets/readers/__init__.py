"""What a file holds: one module per format, each of which offers a `RecordSource`."""
