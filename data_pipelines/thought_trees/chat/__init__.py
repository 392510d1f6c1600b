"""Asking chat models a task's questions, and reading their answers."""
