"""Pipelines that make preference trees: sampling, scoring, searching, executing."""
