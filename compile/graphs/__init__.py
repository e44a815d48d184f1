"""Graph builders: one module per family and compiler."""
