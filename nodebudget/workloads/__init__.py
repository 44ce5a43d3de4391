"""The training step that is measured: the protocol, the built-in ones, and samples with other ratios of sizes."""
