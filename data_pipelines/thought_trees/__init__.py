"""Thought trees (CPO, arXiv 2406.09136): tree-of-thought search, its judges and tasks, and search trees as step preferences."""
