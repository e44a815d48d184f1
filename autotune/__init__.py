"""Searches draft models for speculative decoding: compiles, measures and ships the one worth running."""
