"""The answer that a response ends with without saying that it is the answer: in bold, alone on its line, or in its last sentence."""

from __future__ import annotations

import re
from collections.abc import Callable

from data_pipelines.thought_trees.chat.statements import BOXED
from data_pipelines.thought_trees.chat.text import any_of, is_question, sentences_from_the_end
from data_pipelines.thought_trees.chat.values import formula_in, number_in, numbers_of

Value = Callable[[str], str | None]
SHORT = 6  # words of a response that is its own answer

_CLOSING = re.compile(
    any_of("hope (?:this|that)", "let me know", "feel free", "happy to help", "glad to", "any (?:more |other |further )?questions"),
    re.IGNORECASE,
)
_UNSURE = re.compile(
    any_of(
        "not", "never", "cannot", "can't", "unclear", "unsure", "uncertain", "unknown", "maybe", "perhaps", "probably", "might", "could",
        "may", "either", "depends?", "impossible", "sorry", "unable", "if", "suppose", "wrong", "incorrect", "let's", "let us",
    ) + r"|n't\b",
    re.IGNORECASE,
)  # fmt: skip
_PLANNING = re.compile(
    any_of("first", "start", "begin", "we need", "need to", "divide", "subtract", "multiply", "add", "calculate", "compute", "find",
           "now", "next", "let"),
    re.IGNORECASE,
)  # fmt: skip
_CONCLUDING = re.compile(
    r"\W*(?:and\s+)?" + any_of(
        "so", "thus", "therefore", "hence", "consequently", "accordingly", "in total", "in all", "altogether", "overall", "in conclusion",
        "to conclude", "finally", "in summary", "as a result", "(?:this|that|which) (?:means|gives|leaves)", "(?:the )?(?:total|result)",
        "the number of", "the amount", "we get", "we have", "conclusion", "solution",
    ),
    re.IGNORECASE,
)  # fmt: skip
_EQUAL = re.compile(r"=|≈|\\approx")
_LISTED = re.compile(r"\W*(?:step\b|\d+[.)]\s+\S)", re.IGNORECASE)
_BOLD = re.compile(r"(?<!\*)\*\*(?!\s)([^*\n]+?)\*\*(?!\*)|(?<!\w)__([^_\n]+?)__(?!\w)")
_BOLD_HEADING = re.compile(r"\W*(?:step|note|question|problem|part)\b|.*:\s*$", re.IGNORECASE)
_FORMULA = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")


def last_sentence(plain: str) -> str | None:
    """The last sentence that is no offer of further help; None where it is unsure of itself or asks, or a box was left open."""
    last = next((sentence for sentence in sentences_from_the_end(plain) if not _CLOSING.search(sentence)), None)
    return None if last is None or _UNSURE.search(last) or is_question(last) or BOXED.search(plain) else last


def whole_answer(plain: str, value: Value) -> str | None:
    """The answer of a response that is nothing but an answer: "14", "14 rolls are left."."""
    if len(plain.split()) > SHORT or len(list(sentences_from_the_end(plain))) > 1 or _LISTED.match(plain) or _PLANNING.search(plain):
        return None
    return value(plain)


def bold_answer(text: str, value: Value) -> str | None:
    """The answer that the last paragraph has in bold, if it has one only.

    Args:
        text: with its emphasis.
        value: of a span in bold.
    """
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if re.search(r"\w", part) and not _CLOSING.search(part)]
    spans = ["".join(match) for match in _BOLD.findall(paragraphs[-1])] if paragraphs else []
    values = {found for span in spans if not _BOLD_HEADING.match(span) and (found := value(span)) is not None}
    return values.pop() if len(values) == 1 else None


def concluding_formula(last: str) -> str | None:
    """The only formula of a sentence that concludes: "Therefore $x = 5$."."""
    formulas = ["".join(match) for match in _FORMULA.findall(last)]
    return formula_in(formulas[0]) if len(formulas) == 1 and _CONCLUDING.match(last) else None


def concluding_number(plain: str, last: str) -> str | None:
    """The number of a last sentence: alone on its line, what its equation comes to, the last result of the working that it repeats,
    or, where it concludes or there is no other number in the response, the only one it has."""
    sides = _EQUAL.split(last)
    if _LISTED.match(last) and len(sides) == 1:
        return None
    if len(last.split()) <= 4 and plain.rstrip().rpartition("\n")[2].strip() == last.strip():
        return number_in(last)
    if len(sides) > 1:
        return number_in("=" + sides[-1])
    mentioned = numbers_of(last)
    results = [number for side in _EQUAL.split(plain)[1:] for number in numbers_of(side)[:1]]
    if results and results[-1] in mentioned and (len(mentioned) == 1 or _CONCLUDING.match(last) or not _PLANNING.search(last)):
        return results[-1]
    if len(set(mentioned)) != 1 or _PLANNING.search(last):
        return None
    alone = len(set(numbers_of(plain))) == 1 and not re.search(any_of("each", "per", "every"), last, re.IGNORECASE)
    return mentioned[0] if alone or _CONCLUDING.match(last) else None
