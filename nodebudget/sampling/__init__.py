"""From sizes and a budget to batches: packing, plans, epochs, and the samplers that give them out."""
