"""Outputs that a judge may be fooled by: null models reach 86% with one constant text (arXiv 2410.07137). Flagged beside the number."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONSTANT_SHARE = 0.05  # of all outputs that may be the same text
ALIKE_SHARE = 0.10  # of all outputs that may be nearly the same as another
ALIKE = 0.8  # Jaccard similarity of word 5-grams from which two texts are nearly the same
SHINGLE = 5
COMMON, FIRSTS = 50, 8  # a 5-gram in more texts than this compares all of them with the first so many, not each with each
DISAGREEMENT_SHARE = 0.30  # of all pairs whose verdict may turn with the order

TEMPLATE_TEXT = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|begin_of_text|endoftext|system|user|assistant)\|>"
    r"|\[/?INST\]|<</?SYS>>|\[\[[ABCmM]\]\]"  # turns of chat templates; verdicts
    r"|^\s*#{1,4}\s*(?:output|answer|response|assistant)\s*(?:\(?[abmM12]\)?)\b"
    r"|^\s*#{1,4}\s*(?:best output|verdict|evaluation|model outputs?|instruction)\b"
    r"|\{\s*[\"'](?:model(?:_identifier)?|output|instruction|preference|verdict|rank|winner)[\"']\s*:"
    r"|\bunordered (?:list of )?outputs?\b|\bmodel_identifier\b",
    re.IGNORECASE | re.MULTILINE,
)
_ONE = r"(?:output|response|answer|model)\s+\(?[\"'`]?[abm12]\b[\"'`]?\)?"
TO_THE_JUDGE = re.compile(
    r"\b(?:ignore|disregard|forget)\b[^.\n]{0,40}\b(?:previous|above|prior|preceding|earlier)\b[^.\n]{0,30}\b(?:instruction|prompt|text|output)s?\b"
    rf"|\b{_ONE}\s+(?:is|should be|must be)\s+(?:clearly |obviously )?(?:the )?(?:better|best|preferred|superior|chosen)\b"
    rf"|\b(?:choose|pick|prefer|select|rank)\s+{_ONE}",
    re.IGNORECASE,
)
ORDINARY_CONTROLS = frozenset("\n\r\t\u200c\u200d")  # joiners belong to scripts and emoji


@dataclass(frozen=True)
class Flag:
    """One thing that is wrong.

    Attributes:
        name: of the check.
        count, total: outputs (or pairs) concerned, of how many.
        examples: places of the first of them.
        sentence: what to tell a person.
    """

    name: str
    count: int
    total: int
    examples: tuple[int, ...]
    sentence: str


def suspicious(outputs: Sequence[str], orders: Sequence[tuple[float, float]] = (), template: str = "") -> list[Flag]:
    """What speaks against trusting a win rate.

    Args:
        outputs: the model's, one an instruction.
        orders: preference for the model's output when it stood first and when it stood second, for each pair judged both ways.
        template: of the judge; its longer lines must not stand in outputs.

    Returns:
        The flags that are raised; none for an honest model.
    """
    checks = (
        ("constant outputs", _constant(outputs), CONSTANT_SHARE, "outputs are one and the same text: a null model wins so"),
        ("near-duplicates", _alike(outputs), ALIKE_SHARE, "outputs are nearly the same as an output to another instruction"),
        ("judge-template text", _matching(outputs, template), 0.0, "outputs contain text of a judge's or chat template"),
        ("words to the judge", [i for i, text in enumerate(outputs) if TO_THE_JUDGE.search(text)], 0.0, "outputs speak to the judge"),
        ("control characters", _controls(outputs), 0.0, "outputs contain control or direction characters"),
    )
    flags = [_flag(name, places, len(outputs), words) for name, places, allowed, words in checks if len(places) > allowed * len(outputs)]
    turned = [i for i, (first, second) in enumerate(orders) if (first > 0.5) != (second > 0.5)]
    if len(turned) > DISAGREEMENT_SHARE * len(orders):
        flags.append(
            _flag(
                "order disagreement", turned, len(orders), "verdicts turn with the order of the outputs: the judge sees places, not texts"
            )
        )
    return flags


def _flag(name: str, places: Sequence[int], total: int, words: str) -> Flag:
    first = ", ".join(map(str, places[:5]))
    return Flag(name, len(places), total, tuple(places[:5]), f"{name}: {len(places)} of {total} {words} (first: {first})")


def _constant(outputs: Sequence[str]) -> list[int]:
    """Places of the most frequent text, if it stands more than once; blanks and case do not count."""
    plain = [" ".join(text.lower().split()) for text in outputs]
    text, count = Counter(plain).most_common(1)[0] if plain else ("", 0)
    return [i for i, one in enumerate(plain) if one == text] if count > 1 else []


def _alike(outputs: Sequence[str]) -> list[int]:
    """Places of outputs that share most of their word 5-grams with another one."""
    shingles = [_shingles(text) for text in outputs]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, own in enumerate(shingles):
        for shingle in own:
            holders[shingle].append(place)
    shared: Counter[tuple[int, int]] = Counter()
    for places in holders.values():
        firsts = len(places) if len(places) <= COMMON else FIRSTS
        shared.update((a, b) for i, a in enumerate(places[:firsts]) for b in places[i + 1 :])
    alike = {pair for pair, count in shared.items() if count >= ALIKE * (len(shingles[pair[0]]) + len(shingles[pair[1]]) - count)}
    return sorted({place for pair in alike for place in pair})


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))} if words else set()


def _matching(outputs: Sequence[str], template: str) -> list[int]:
    """Places of outputs with text of chat templates, of judges' templates, or of this judge's template."""
    own = [line.strip() for line in template.splitlines() if len(line.strip()) >= 30 and "{" not in line]
    return [i for i, text in enumerate(outputs) if TEMPLATE_TEXT.search(text) or any(line in text for line in own)]


def _controls(outputs: Iterable[str]) -> list[int]:
    def odd(character: str) -> bool:
        return unicodedata.category(character) in ("Cc", "Cf", "Co") and character not in ORDINARY_CONTROLS

    return [i for i, text in enumerate(outputs) if any(odd(character) for character in text)]
