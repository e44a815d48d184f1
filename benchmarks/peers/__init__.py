"""The pair against its peers, on the same weights and prompts: `python -m benchmarks.peers`."""
