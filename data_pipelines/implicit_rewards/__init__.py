"""Rounds of self-improvement: sample, filter, score, pair, train, again (DICE, arXiv 2406.09760; SELM, arXiv 2405.19332)."""
