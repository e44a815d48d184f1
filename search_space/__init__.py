"""Axes, presets and constraints of the search: a trial suggests a candidate."""
