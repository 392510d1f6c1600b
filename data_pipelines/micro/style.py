"""The style task: little texts about two animals, kind, unkind or neutral. Small enough for rounds of DICE on a laptop.

prompt    "about fox and owl in spring at home :"
response  " the fox sang gladly outside . the owl slept there ."

The gold score is (kind − unkind) ÷ sentences. The judge that labels the first preferences sees it through noise, and
likes length: the bias that DICE's length shaping must keep from growing.
"""

from __future__ import annotations

import math
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data_pipelines.micro.scratch import wrap_tokenizer

ANIMALS = ("fox", "owl", "cat", "dog", "bear", "hen", "wolf", "mouse")
SEASONS = ("spring", "summer", "autumn", "winter")
TIMES = ("home", "dawn", "noon", "night")
VERBS = ("sang", "ran", "slept", "played", "ate")
KIND = ("gladly", "gently", "warmly")
UNKIND = ("rudely", "coldly", "meanly")
NEUTRAL = ("slowly", "quickly", "often")
PLACES = ("outside", "there", "together")
WORDS = ("about", "and", "in", "at", ":", "the", ".", *ANIMALS, *SEASONS, *TIMES, *VERBS, *KIND, *UNKIND, *NEUTRAL, *PLACES)
LONGEST = 5
MAX_NEW_TOKENS = 72
LENGTH_BIAS = 0.03


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and padding and end."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return wrap_tokenizer(core)


def prompts(split: str) -> list[str]:
    """All prompts of a split, in an order that mixes them: "offline" (448), "rounds" (224) and "test" (224)."""
    found = [
        f"about {one} and {other} in {season} at {time} :" for one in ANIMALS for other in ANIMALS if one != other for season in SEASONS
        for time in TIMES
    ]  # fmt: skip
    random.Random("prompts").shuffle(found)
    return {"offline": found[:448], "rounds": found[448:672], "test": found[672:]}[split]


def sample_text(prompt: str, rng: random.Random) -> str:
    """A response as the grammar draws it: 1 to 5 sentences, adverbs of every kind alike."""
    words = prompt.split()
    sentences = []
    for _ in range(rng.randint(1, LONGEST)):
        adverb = rng.choice(rng.choice((KIND, UNKIND, NEUTRAL)))
        sentences.append(f"the {rng.choice((words[1], words[3]))} {rng.choice(VERBS)} {adverb} {rng.choice(PLACES)} .")
    return " " + " ".join(sentences)


def examples(count: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and responses for the start model."""
    rng = random.Random(seed)
    known = prompts("offline") + prompts("rounds") + prompts("test")
    return [(prompt, sample_text(prompt, rng)) for prompt in rng.choices(known, k=count)]


def gold_score(text: str) -> float:
    """(kind − unkind) ÷ sentences, −1 to 1 for texts of the grammar; 0 for a text without a full stop.

    >>> gold_score("the fox sang gladly outside . the owl ran often there .")
    0.5
    """
    words = text.split()
    sentences = words.count(".")
    return (sum(word in KIND for word in words) - sum(word in UNKIND for word in words)) / sentences if sentences else 0.0


def judge_prefers_first(one: str, other: str, rng: random.Random) -> bool:
    """A noisy comparison (Bradley-Terry) on the gold score plus 0.03 a token."""
    difference = gold_score(one) - gold_score(other) + LENGTH_BIAS * (len(one.split()) - len(other.split()))
    return rng.random() < 1 / (1 + math.exp(-difference))
