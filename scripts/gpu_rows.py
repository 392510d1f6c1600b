"""The rows that scripts/bench_gpu.py measures: token trees of random tokens, by name."""

from __future__ import annotations

import random

from bench import cpo_tree, lognormal, tokens

from align.engine import TokenTree

VOCAB = 128_256
UF_LENGTHS = ((120, 0.9), (220, 0.7), (180, 0.8))


def _pair(prompt: int, chosen: int, rejected: int, rng: random.Random) -> TokenTree:
    return TokenTree([tokens(n, rng, VOCAB) for n in (prompt, chosen, rejected)], [-1, 0, 0], [(1, 2)], [1.0], [0.0])


def spread(budget: int, sizes: tuple[tuple[int, float], ...], rng: random.Random) -> list[TokenTree]:
    """Pairs of lognormal lengths (median, sigma of prompt, chosen, rejected), as many as fit in `budget` tokens."""
    drawn: list[TokenTree] = []
    while True:
        pair = _pair(*(lognormal(median, sigma, 2048, rng) for median, sigma in sizes), rng)
        budget -= sum(map(len, pair.tokens))
        if budget < 0:
            return drawn
        drawn.append(pair)


def pairs(rng: random.Random) -> list[TokenTree]:
    """16 pairs, prompt 256, responses 128: 8,192 tokens."""
    return [_pair(256, 128, 128, rng) for _ in range(16)]


def long_pairs(rng: random.Random) -> list[TokenTree]:
    """4 pairs, prompt 1,024, responses 512: 8,192 tokens."""
    return [_pair(1024, 512, 512, rng) for _ in range(4)]


def ultrafeedback(rng: random.Random) -> list[TokenTree]:
    """A row of 8,192 tokens of pairs with lengths like UltraFeedback's."""
    return spread(8192, UF_LENGTHS, rng)


def hh(rng: random.Random) -> list[TokenTree]:
    """A row of 8,192 tokens of pairs with lengths like HH's."""
    return spread(8192, ((180, 0.9), (45, 0.8), (45, 0.8)), rng)


def code(rng: random.Random) -> list[TokenTree]:
    """8 problems of 8 programs, 7 edges each: prompt 256, programs 96."""
    return [
        TokenTree([tokens(n, rng, VOCAB) for n in (256, *[96] * 8)], [-1] + [0] * 8, [(1, i) for i in range(2, 9)], [1.0] * 7, [0.0] * 7)
        for _ in range(8)
    ]


def cpo(rng: random.Random) -> list[TokenTree]:
    """4 thought trees, 27 edges each: one few-shot prompt of 900 tokens, questions of 100, 3 steps of 10 thoughts of 30."""
    prompt = tokens(900, rng, VOCAB)
    return [cpo_tree(VOCAB, rng, prompt + tokens(100, rng, VOCAB))[0] for _ in range(4)]


def twice_the_pairs(rng: random.Random) -> list[TokenTree]:
    """32 pairs, prompt 256, responses 128: 16,384 tokens."""
    return [_pair(256, 128, 128, rng) for _ in range(32)]


ROWS = {f.__name__: f for f in (pairs, long_pairs, ultrafeedback, hh, code, cpo, twice_the_pairs)}
TRL_BATCHES = {"pairs": [16], "ultrafeedback": [5, 10], "hh": [12, 24], "code": [14, 28], "cpo": [9, 18], "twice_the_pairs": [16]}
"""Micro-batches, pairs, that trl is tried with on each row."""
