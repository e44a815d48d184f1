"""Model families: Hugging Face checkpoints on one side, canonical weights on the other."""
