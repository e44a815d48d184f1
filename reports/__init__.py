"""Trials in, reports out."""
