r"""The answer that a chat model's response states, read in the forms in which chat models state answers.

What counts, in this order:

1. *Statements*, the last one of which counts: "the (final) answer is …", "Answer: …" (also as a heading above it), "#### …",
   "\boxed{…}", "<answer>…</answer>". A statement that is denied, supposed or asked ("the answer is not 12", "if the answer is 12",
   "is the answer 12?") is none. A last statement that leaves a choice ("12 or 14") makes the response unreadable.
2. *Conclusions*, only where the response came to its end by itself: the whole response is the answer; the last paragraph has it in
   bold; its last sentence concludes with it ("So she has 14 apples left.").

What a model thinks between <think> and </think> is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from data_pipelines.thought_trees.chat_values import AMBIGUOUS, expression_in, formula_in, number_in, numbers_of, words_in


class AnswerKind(StrEnum):
    """What an answer is, and so how much of a statement belongs to it."""

    NUMBER = "number"
    MATHS = "maths"
    EXPRESSION = "expression"
    WORDS = "words"
    LABEL = "label"


def read_answer(
    response: str, kind: AnswerKind, finish_reason: Literal["stop", "length"] = "stop", labels: Sequence[str] = ()
) -> str | None:
    """The answer that a response states; None where none can be read.

    Args:
        response: as the model wrote it.
        kind: what an answer is.
        finish_reason: "length" where the response was cut; its last, torn words are then left out.
        labels: texts that are answers, such as "not enough info": a "not" in them denies nothing.

    >>> read_answer("5 + 9 = 14. **The answer is 14 apples.**", AnswerKind.NUMBER)
    '14'
    >>> read_answer("The answer is not 12.", AnswerKind.NUMBER) is None
    True
    """
    text = _without_thinking(response)
    if finish_reason == "length":
        text = text[: max(map(text.rfind, "\n.!?}")) + 1]
    plain = _plain(text, kind, labels)
    value = _stated(plain, kind)
    if value is None and finish_reason == "stop":
        value = _concluded(text, plain, kind)
    return None if value is None or value == AMBIGUOUS else value.replace(_PROTECTED, "")


_NEXT_QUESTION = re.compile(r"\n\s*(?:[#*]*\s*)?(?:Question|Problem|Q|Human|User|Instruction)\s*\d*\s*:", re.IGNORECASE)


def _stated(plain: str, kind: AnswerKind) -> str | None:
    """The last statement's answer; of a response that goes on with questions of its own, the one before these."""
    following = _NEXT_QUESTION.search(plain)
    if following and (value := _last_statement(plain[: following.start()], kind)) is not None:
        return value
    return _last_statement(plain, kind)


def _last_statement(plain: str, kind: AnswerKind) -> str | None:
    for statement in sorted(_statements(plain), key=lambda statement: -statement.start):
        value = _VALUES[kind](statement.claim)
        if value == AMBIGUOUS or (value is not None and _is_near(statement, kind)):
            return value
    return None


@dataclass(frozen=True)
class _Statement:
    """Attributes: start, where it stands in the text; claim, what is said to be the answer; named, a label alone says so ("Answer:");
    followed, numbers stand behind it."""

    start: int
    claim: str
    named: bool = False
    followed: bool = False


_VALUES: dict[AnswerKind, Callable[[str], str | None]] = {
    AnswerKind.NUMBER: number_in, AnswerKind.MATHS: formula_in, AnswerKind.EXPRESSION: expression_in,
    AnswerKind.WORDS: words_in, AnswerKind.LABEL: words_in,
}  # fmt: skip

_PROTECTED = "\u2060"  # a sign of no width within a label's "not", so that it is not read as a denial
_THINKING = re.compile(r"\A(?:(?!<think).)*?</think(?:ing)?>|<(think|thinking|reasoning|scratchpad)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<!\w)(?:\*\*|__)|(?:\*\*|__)(?!\w)|`{3}\w*")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathbf|mathrm|textit|mbox)\{([^{}]*)\}")


def _without_thinking(response: str) -> str:
    return _THINKING.sub("", response).strip()


def _plain(text: str, kind: AnswerKind, labels: Sequence[str]) -> str:
    """A text without emphasis, with LaTeX's words as words (but in formulas) and one writing of colons, dashes and blanks."""
    text = text.replace("\r\n", "\n").replace("\u00a0", " ").replace("\u202f", " ").replace("：", ":").replace("’", "'")
    text = re.sub(r"(?<=\d)\s?[\u2212\u2013]\s?(?=\d)", "-", text).replace("\u2212", "-")
    text = _EMPHASIS.sub("", text)
    for label in labels:
        text = re.sub(rf"\b{re.escape(label)}\b", lambda match: re.sub(r"(?i)\bn(?=o)", rf"\g<0>{_PROTECTED}", match.group()), text, flags=re.I)
    return text if kind is AnswerKind.MATHS else _TEXT_COMMAND.sub(r"\1", text)


_IS = r"(?:is|are|was|equals?|becomes|must be|should be|has to be|will be|would be|would then be|comes? (?:out )?to(?: be)?|turns out to be)"
_PHRASE = re.compile(
    rf"\banswers?\b(?P<between>(?!\s*[:=])[^\n.!?:;=\d]{{0,90}}?)\b(?P<verb>{_IS})\b\s*(?P<negated>n't\b|not\b)?\s*:?", re.IGNORECASE
)
_LABEL = re.compile(
    r"(?:^|(?<=[.!?\"'{(])|(?<=[.!?,;]\s)|(?<=\b(?:so|my)\s)|(?<=\b(?:the)\s)|(?<=\bfinal\s))(?P<mark>[ \t>#*\-+\d.)\"'{(\u2705\U0001f449]*)"
    r"(?:the\s+|my\s+)?(?:final\s+|correct\s+|numerical\s+|numeric\s+|short\s+)?answer\b[ \t]*(?:\([^()\n]*\))?[\"'*]*[ \t]*"
    r"(?::|=|\u2192|->|=>|\u2013|\u2014|-(?=\s))",
    re.IGNORECASE | re.MULTILINE,
)
_SHORT_LABEL = re.compile(r"^[ \t>*\-]*(?:A|Ans|Result|Final result)[ \t]*[:=.](?=[ \t]*\S)", re.MULTILINE | re.IGNORECASE)
_ANSWER_OF = re.compile(r"\banswer of:?\s+(?=[^\w\n]*\d)", re.IGNORECASE)
_REVERSED = re.compile(
    r"(?P<value>(?<![\w.])[-+]?[$€£]?\d[\d,.]*(?:\s[a-zA-Z]+)?)[\s\"'$)]+is (?:thus |therefore |then )?(?:the|our|my) (?:final |correct )?answer\b",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^[ \t]*#*[ \t]*(?:the\s+)?(?:final\s+|correct\s+)?answer[ \t]*$", re.MULTILINE | re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?P<value>\S.*)$", re.MULTILINE)
_TAG = re.compile(r"<(answer|final_answer|final)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*")

_DENIED_BEFORE = re.compile(
    r"\b(?:not|n't|never|doubt|whether|unless|if|suppose|supposing|assume|assuming|might|may|could|would|tempted|tempting|wrongly|"
    r"incorrectly|mistakenly|check that|verify that|guess that|pretend|wrong|incorrect|first|initial|previous|earlier|student's|their|his|her)\b[^,;:]*$|n't\b[^,;:]*$",
    re.IGNORECASE,
)
_DENIED_BETWEEN = re.compile(r"\b(?:not|never|cannot|depends?|whether|if|unless|nor|neither|no)\b|n't\b", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"\b(?:is|was|are|be|that's|it's|which|but)\b[^.\n]*\b(?:wrong|incorrect|false|impossible|not (?:right|correct|possible|the answer|an option|true)|a mistake)\b",
    re.IGNORECASE,
)
_BOX_DENIED = re.compile(r"\b(?:not|never|wrong|incorrect|cannot)\b[^,;:]*$|n't\b[^,;:]*$", re.IGNORECASE)
_UNDETERMINED = re.compile(
    r"\b(?:cannot|can't|could not|couldn't|impossible|undefined|undetermined|unknown|not (?:possible|enough|known|given|clear))\b", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b(?:St|Dr|Mr|Ms|Jr|Sr|vs|No))(?<!\b(?:Mrs|Inc|Ltd|etc))[.!?](?=[\s\"')*]|$)")
_BUT = re.compile(r"^\W*(?:not|n't)\b[^.\n]*?\bbut(?: rather)?\s+", re.IGNORECASE)


def _statements(text: str) -> Iterator[_Statement]:
    """Where a text says what the answer is."""
    for match in _PHRASE.finditer(text):
        before, sentence = _before(text, match.start()), _sentence(text, match.end())
        contrast = _BUT.match("not " + sentence) if match["negated"] else _BUT.match(sentence)
        if contrast:
            yield _Statement(match.start(), ("not " + sentence if match["negated"] else sentence)[contrast.end() :])
        elif not (match["negated"] or _DENIED_BEFORE.search(before) or _DENIED_BETWEEN.search(match["between"]) or _is_denied(sentence)):
            yield _Statement(match.start(), sentence)
    for pattern in (_LABEL, _SHORT_LABEL, _HEADING):
        for match in pattern.finditer(text):
            sentence = _sentence(text, match.end())
            if not _is_denied(sentence) and not _DENIED_BEFORE.search(_before(text, match.start())):
                rest = text[match.end() :].partition(sentence or "\n")[2]
                yield _Statement(match.start(), sentence, named=True, followed=bool(re.search(r"\d", rest)))
    for match in _ANSWER_OF.finditer(text):
        if not (_DENIED_BEFORE.search(_before(text, match.start())) or _is_denied(_sentence(text, match.end()))):
            yield _Statement(match.start(), _sentence(text, match.end()))
    for match in _REVERSED.finditer(text):
        if not _DENIED_BEFORE.search(_before(text, match.start())):
            yield _Statement(match.start(), match["value"])
    for match in _HASHES.finditer(text):
        if not _is_denied(match["value"]) and not re.match(r"(?i)step\b|\d+[.)]\s+[A-Za-z]|[A-Za-z].*:\s*$", match["value"]):
            yield _Statement(match.start(), match["value"], named=True, followed=bool(re.search(r"\d", text[match.end() :])))
    for match in _TAG.finditer(text):
        yield _Statement(match.start(), match[2].strip())
    for match in _BOXED.finditer(text):
        content = _braced(text, match.end())
        denied = _BOX_DENIED.search(_before(text, match.start())) or _DENIED_AFTER.search(_sentence(text, match.end() + len(content)))
        if content and not denied:
            yield _Statement(match.start(), content)


def _before(text: str, end: int) -> str:
    """The sentence that a statement stands in, up to it."""
    line = text[text.rfind("\n", 0, end) + 1 : end]
    return _SENTENCE_END.split(line)[-1]


def _sentence(text: str, start: int) -> str:
    """From a place to the end of its sentence; the next line that says something, where nothing more stands on this one."""
    rest = text[start:]
    lines = iter(rest.split("\n"))
    line = next((line for line in lines if re.search(r"\w", _bare(line))), "")
    end = _SENTENCE_END.search(line)
    return line[: end.end()] if end and re.search(r"\w", line[: end.start()]) else line


def _bare(line: str) -> str:
    return re.sub(r"\\[\[\]()]|\$|[*_`#>]", "", line)


def _is_denied(sentence: str) -> bool:
    """Whether a statement's sentence takes back what it says: begins with "not", calls it wrong, or is a question."""
    denied = re.match(r"\W*(?:not|never|neither|n't|unknown|unclear|unless|n/a)\b", sentence, re.IGNORECASE)
    return bool(denied or _DENIED_AFTER.search(sentence) or _UNDETERMINED.search(sentence)) or sentence.rstrip(" *\"')").endswith("?")


def _braced(text: str, start: int) -> str:
    """What stands in balanced braces at a place, or up to a blank where there are none; empty where the braces never close."""
    if not text.startswith("{", start):
        bare = re.match(r"[^\s$.,;]+", text[start:])
        return bare.group() if bare and start and text[start - 1] in " d" else ""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place]
    return ""


_FILLER = r"(?:(?:a|an|the|about|approximately|around|exactly|just|simply|thus|therefore|then|indeed|now|only|total|sum|of|equal|to|is|are|it|we|get)\b\W*)*"
_VALUE_FIRST = re.compile(rf"^[^\w\\-]*(?:[a-zA-Z]\w{{0,2}}\s*=\s*)?{_FILLER}[-+]?[^\w\\]*(?:\\\w+\W*)*\d", re.IGNORECASE)


def _is_near(statement: _Statement, kind: AnswerKind) -> bool:
    """Whether a label's value stands beside it: below "Answer:", a whole solution may follow instead, which numbers begin."""
    if kind is not AnswerKind.NUMBER or not statement.named or not statement.followed:
        return True
    return bool(_VALUE_FIRST.match(statement.claim)) and "=" not in statement.claim


_CLOSING = re.compile(r"\b(?:hope (?:this|that)|let me know|feel free|happy to help|glad to|any (?:more |other |further )?questions)\b", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(?:not|never|cannot|can't|unclear|unsure|uncertain|unknown|maybe|perhaps|probably|might|could|may|either|depends?|impossible|sorry|unable|"
    r"if|suppose|wrong|incorrect|need(?:s)? to|let's|let us)\b|n't\b",
    re.IGNORECASE,
)
_PLANNING = re.compile(
    r"\b(?:first|start|begin|we need|needs? to|divide|subtract|multiply|add|calculate|compute|find|now|next|let)\b", re.IGNORECASE
)
_CONCLUDING = re.compile(
    r"^\W*(?:and\s+)?(?:so|thus|therefore|hence|consequently|accordingly|in total|in all|altogether|overall|in conclusion|to conclude|finally|"
    r"in summary|as a result|this means|that means|this gives|that gives|this leaves|that leaves|which means|the total|the result|result|total|"
    r"the number of|the amount|we get|we have|conclusion|solution)\b",
    re.IGNORECASE,
)
_EQUAL = re.compile(r"=|≈|\\approx")
_LISTED = re.compile(r"(?i)\W*(?:step\b|\d+[.)]\s+\S)")
_BOLD = re.compile(r"(?<!\*)\*\*(?!\s)([^*\n]+?)\*\*(?!\*)|(?<!\w)__([^_\n]+?)__(?!\w)")


def _concluded(text: str, plain: str, kind: AnswerKind) -> str | None:
    """The answer that a response ends with, without saying that it is the answer."""
    last = _last_sentence(plain)
    if last is None or _UNSURE.search(last) or last.rstrip(" *\"')").endswith("?") or _BOXED.search(plain):
        return None
    if last.strip() == plain.strip() and len(plain.split()) <= 6 and not (_LISTED.match(last) or _PLANNING.search(last)):
        return _VALUES[kind](plain)
    if kind is AnswerKind.LABEL:
        return last.strip()
    bold = _bold(text, kind)
    if bold is not None or kind in (AnswerKind.WORDS, AnswerKind.EXPRESSION):
        return bold
    if kind is AnswerKind.MATHS and (formulas := re.findall(r"\$([^$]+)\$|\\\((.+?)\\\)", last)):
        return formula_in("".join(formulas[0])) if len(formulas) == 1 and _CONCLUDING.match(last) else None
    return _concluding_number(plain, last)


def _last_sentence(plain: str) -> str | None:
    """The last sentence that is no offer of further help."""
    lines = [line for line in plain.split("\n") if re.search(r"\w", line)]
    for line in reversed(lines):
        ends = [0, *(match.end() for match in _SENTENCE_END.finditer(line)), len(line)]
        sentences = [line[a:b] for a, b in zip(ends, ends[1:], strict=False) if re.search(r"\w", line[a:b])]
        for sentence in reversed(sentences):
            if not _CLOSING.search(sentence):
                return sentence
    return None


def _bold(text: str, kind: AnswerKind) -> str | None:
    """The only answer in bold in the last paragraph."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if re.search(r"\w", part) and not _CLOSING.search(part)]
    spans = ["".join(match) for match in _BOLD.findall(paragraphs[-1])] if paragraphs else []
    spans = [span for span in spans if not re.match(r"(?i)\W*(?:step|note|question|problem|part)\b", span) and not span.rstrip().endswith(":")]
    if kind in (AnswerKind.WORDS, AnswerKind.EXPRESSION):
        return _VALUES[kind](spans[0]) if len(spans) == 1 else None
    values = [value for span in spans if (value := _VALUES[kind](span)) is not None]
    return values[0] if len(set(values)) == 1 else None


def _concluding_number(plain: str, last: str) -> str | None:
    """The number of a concluding sentence: what its equation comes to, the last result of the working, or the only number there is."""
    if _LISTED.match(last):
        return None
    if len(last.split()) <= 4 and plain.rstrip().rpartition("\n")[2].strip() == last.strip():  # a line of its own
        return number_in(last)
    pieces = _EQUAL.split(last)
    if len(pieces) > 1:
        return number_in("=" + pieces[-1])
    mentioned = numbers_of(last)
    results = [number for piece in _EQUAL.split(plain)[1:] for number in numbers_of(piece)[:1]]
    if results and results[-1] in mentioned and (len(mentioned) == 1 or _CONCLUDING.match(last)):
        return results[-1]
    if len(set(mentioned)) != 1 or _PLANNING.search(last):
        return None
    alone = len(set(numbers_of(plain))) == 1 and not re.search(r"(?i)\b(?:each|per|every)\b", last)
    return mentioned[0] if alone or _CONCLUDING.match(last) else None
