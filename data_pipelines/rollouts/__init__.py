"""Rollouts: sampling from a model through one protocol, with vLLM, a server, or transformers."""
