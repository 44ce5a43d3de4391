"""What every room needs and none owns: files, records, units, checks, optional imports, ranks."""
