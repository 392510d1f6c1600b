"""Evaluation: what alignment did to a model."""
