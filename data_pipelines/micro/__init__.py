"""The micro task: a model small enough to train from scratch on a laptop, to see every method at work."""
