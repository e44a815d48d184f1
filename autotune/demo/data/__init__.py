"""Data of the demo target."""
