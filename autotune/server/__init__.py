"""An OpenAI-compatible server of a shipped pair (`autotune serve`)."""
