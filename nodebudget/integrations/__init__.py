"""Other people's training loops: alignn, Lightning, Hugging Face's Trainer."""
