"""Targets behind OpenAI-compatible servers: vLLM, SGLang, llama.cpp and their like."""
