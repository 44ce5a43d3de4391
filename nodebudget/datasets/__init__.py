"""From a dataset, on disk or in memory, to a table of sizes: nodes, edges and line-graph edges of every graph."""
