"""Weights and a shape in, a compiled program on disk out."""
