"""What the graph of one sample has: nodes, edges, line-graph edges and further sizes."""
