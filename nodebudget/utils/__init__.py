"""What every other folder may use: files, records, JSON lines, units, labels, checks, optional imports, ranks."""
