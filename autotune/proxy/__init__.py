"""Draft weights for any shape, and the acceptance they would reach."""
