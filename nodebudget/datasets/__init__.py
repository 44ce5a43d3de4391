"""From a dataset to a table of sizes: reading files, counting the graph of each crystal, and caching what was measured."""
