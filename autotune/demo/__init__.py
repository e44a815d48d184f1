"""The embedded demo target."""
