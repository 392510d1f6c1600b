"""Where a response says what the answer is ("the answer is …", "Answer: …", "#### …", \\boxed{…}), and does not deny or suppose it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipelines.thought_trees.answers import unboxed
from data_pipelines.thought_trees.chat.text import any_of, clause_before, is_question, sentence_from


@dataclass(frozen=True)
class Statement:
    """Attributes:
    start: where it stands in the text.
    claim: what is said to be the answer, to the end of the sentence.
    labelled: a label alone says so ("Answer:"); a whole solution may follow it.
    followed: numbers stand behind the claim.
    """

    start: int
    claim: str
    labelled: bool = False
    followed: bool = False


_IS = any_of(
    "is", "are", "was", "equals?", "becomes", "(?:must|should|will|would|would then) be", "has to be", "comes? (?:out )?to(?: be)?",
    "turns out to be",
)  # fmt: skip
_PHRASE = re.compile(rf"\banswers?\b(?P<between>(?!\s*[:=])[^\n.!?:;=\d]{{0,90}}?){_IS}\s*(?P<negated>n't\b|not\b)?\s*:?", re.IGNORECASE)
_ANSWER_OF = re.compile(r"\banswer of:?\s+(?=[^\w\n]*\d)", re.IGNORECASE)
_REVERSED = re.compile(
    r"(?P<value>(?<![\w.,])[-+]?[$€£]?\d[\d,.]{0,40}(?:\s[a-z]+)?)[\s\"'$)]+"
    r"is (?:thus |therefore |then )?(?:the|our|my) (?:final |correct )?answer\b",
    re.IGNORECASE,
)
_LABELS = [
    re.compile(  # Answer: 14, **Final Answer** = 14, "answer": 14
        r"(?:^|(?<=[.!?\"'{(])|(?<=[.!?,;]\s)|(?<=\b(?:so|my)\s)|(?<=\bthe\s)|(?<=\bfinal\s))[ \t>#*\-+\d.)\"'{(\u2705\U0001f449]{0,40}"
        r"(?:the\s+|my\s+)?(?:(?:final|correct|numerical|numeric|short)\s+)?answer\b[ \t]*(?:\([^()\n]*\))?[\"'*]*[ \t]*"
        r"(?::|=|\u2192|->|=>|\u2013|\u2014|-(?=\s))",
        re.IGNORECASE | re.MULTILINE,
    ),
    re.compile(r"^[ \t>*\-]*(?:A|Ans|Result|Final result)[ \t]*[:=.](?=[ \t]*\S)", re.IGNORECASE | re.MULTILINE),  # A: 14
    re.compile(r"^[ \t]*#*[ \t]*(?:the\s+)?(?:(?:final|correct)\s+)?answer[ \t]*$", re.IGNORECASE | re.MULTILINE),  # ## Final Answer
]
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?P<value>\S.*)$", re.MULTILINE)
_HEADING = re.compile(r"step\b|\d+[.)]\s+[a-z]|[a-z].*:\s*$", re.IGNORECASE)
_TAG = re.compile(r"<(answer|final_answer|final)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_LONGEST_BOX, _BESIDE = 2000, 200  # characters of a box, and before it, where another of the same list may stand
BOXED = re.compile(r"\\(?:boxed|fbox)\s*")

_SUPPOSED = re.compile(
    any_of(
        "not", "never", "doubt", "whether", "unless", "if", "suppose", "supposing", "assume", "assuming", "pretend", "might", "may",
        "could", "would", "tempted", "tempting", "wrongly", "incorrectly", "mistakenly", "(?:check|verify|guess) that",
    ) + r"|n't\b|\b(?:wrong|incorrect|first|initial|previous|earlier|\w+'s|their|his|her)\s+(?:\w+\s+)?$",
    re.IGNORECASE,
)  # fmt: skip
_DENIED_WITHIN = re.compile(
    any_of("not", "never", "cannot", "depends?", "whether", "if", "unless", "nor", "neither", "no") + r"|n't\b", re.IGNORECASE
)
_DENIED_BY = re.compile(r"\W*(?:not|never|neither|n't|unknown|unclear|unless|n/a)\b", re.IGNORECASE)
_WRONG = re.compile(
    any_of("wrong", "incorrect", "false", "impossible", "not (?:right|correct|possible|the answer|an option|true)", "a mistake"),
    re.IGNORECASE,
)
_CALLED = re.compile(any_of("is", "was", "are", "be", "that's", "it's", "which", "but"), re.IGNORECASE)
_UNDETERMINED = re.compile(
    any_of(
        "cannot", "can't", "could not", "couldn't", "impossible", "undefined", "undetermined", "unknown",
        "not (?:possible|enough|known|given|clear)",
    ),
    re.IGNORECASE,
)  # fmt: skip
_BOX_DENIED = re.compile(any_of("not", "never", "wrong", "incorrect", "cannot") + r"|n't\b", re.IGNORECASE)
_BUT = re.compile(r"\W*(?:not|n't)\b[^.\n]*?(?:\bbut(?: rather)?|[,;] (?:but )?it(?:'s| is))\s+", re.IGNORECASE)


def statements(text: str) -> Iterator[Statement]:
    """Every statement of an answer in a text that `text.without_emphasis` made, in no order."""
    yield from _phrases(text)
    yield from _labels(text)
    for match in _HASHES.finditer(text):
        if not _is_denied(match["value"]) and not _HEADING.match(match["value"]):
            yield Statement(match.start(), match["value"], labelled=True, followed=bool(re.search(r"\d", text[match.end() :])))
    for match in _TAG.finditer(text):
        yield Statement(match.start(), match[2].strip())
    for match in BOXED.finditer(text):
        content = _braced(text, match.end())
        after = sentence_from(text, match.end() + len(content))
        if content and not _BOX_DENIED.search(clause_before(text, match.start())) and not _is_called_wrong(after):
            beside = text[max(0, match.start() - _BESIDE) : match.end() + len(content) + 2]
            yield Statement(match.start(), unboxed(beside) if text[match.end()] == "{" else content)


def _phrases(text: str) -> Iterator[Statement]:
    """ "The answer is 14", "an answer of 14", "14 is the answer"; of "not 12 but 14" the second."""
    for match in _PHRASE.finditer(text):
        claim = ("not " if match["negated"] else "") + sentence_from(text, match.end())
        contrast = _BUT.match(claim)
        denied = _SUPPOSED.search(clause_before(text, match.start())) or _DENIED_WITHIN.search(match["between"])
        if contrast:
            yield Statement(match.start(), claim[contrast.end() :])
        elif not denied and not _is_denied(claim):
            yield Statement(match.start(), claim)
    for match in _ANSWER_OF.finditer(text):
        claim = sentence_from(text, match.end())
        if not _SUPPOSED.search(clause_before(text, match.start())) and not _is_denied(claim):
            yield Statement(match.start(), claim)
    for match in _REVERSED.finditer(text):
        if not _SUPPOSED.search(clause_before(text, match.start())):
            yield Statement(match.start(), match["value"])


def _labels(text: str) -> Iterator[Statement]:
    """ "Answer: 14", also as a heading above it."""
    for pattern in _LABELS:
        for match in pattern.finditer(text):
            claim = sentence_from(text, match.end())
            if not _is_denied(claim) and not _SUPPOSED.search(clause_before(text, match.start())):
                behind = text[match.end() :].partition(claim or "\n")[2]
                yield Statement(match.start(), claim, labelled=True, followed=bool(re.search(r"\d", behind)))


def _is_denied(claim: str) -> bool:
    """Whether a claim's sentence takes back what it says: begins with "not", calls it wrong or unknown, or is a question."""
    return bool(_DENIED_BY.match(claim) or _is_called_wrong(claim) or _UNDETERMINED.search(claim)) or is_question(claim)


def _is_called_wrong(claim: str) -> bool:
    """ "12, which is wrong", "12 is not the answer"."""
    return any(_CALLED.search(re.split(r"[.\n]", claim[: match.start()])[-1]) for match in _WRONG.finditer(claim))


def _braced(text: str, start: int) -> str:
    """What stands in balanced braces at a place, or up to a blank where there are none; empty where the braces never close."""
    if not text.startswith("{", start):
        bare = re.match(r"[^\s$.,;]+", text[start:])
        return bare.group() if bare else ""
    depth = 0
    for place in range(start, min(len(text), start + _LONGEST_BOX)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place]
    return ""
