"""A chat model's response as text to read from: without thinking, without emphasis, by sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

_THINKING = re.compile(
    r"\A(?:(?!<think).)*?</think(?:ing)?>|<(think|thinking|reasoning|scratchpad)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE
)
_EMPHASIS = re.compile(r"(?<!\w)(?:\*\*|__)|(?:\*\*|__)(?!\w)|`{3}[A-Za-z]*")
_CALCULATION = re.compile(r"<<[^<>\n]*=[^<>\n]*>>")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathbf|mathrm|textit|mbox)\{([^{}]*)\}")
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b(?:St|Dr|Mr|Ms|Jr|Sr|vs|No))(?<!\b(?:Mrs|Inc|Ltd|etc))[.!?](?=[\s\"')*]|$)")
_WHOLE = re.compile(r"\n|[!?}](?=\s|$)|\.(?=\s)|(?<!\d)\.$")  # "1." at the end may be the beginning of 1.5
_SIGNS = str.maketrans(
    {"\u00a0": " ", "\u202f": " ", "\uff1a": ":", "\u2019": "'", "\u2212": "-", "\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4"}
)
LONGEST = 500  # characters of a sentence that are looked at: a model that repeats itself without end must not cost minutes
PROTECTED = "\u2060"
"""A sign of no width, put into a label's "not" so that it is not read as a denial."""


def any_of(*words: str) -> str:
    """A regular expression of words, any of which stands as a whole."""
    return rf"\b(?:{'|'.join(words)})\b"


def without_thinking(response: str) -> str:
    """A response without what stands between <think> and </think>; thinking that never ends leaves nothing."""
    return _THINKING.sub("", response).strip()


def before_the_cut(text: str) -> str:
    """A text that was cut somewhere, without the sentence or line that the cut tore."""
    ends = [match.end() for match in _WHOLE.finditer(text)]
    return text[: ends[-1]] if ends else ""


def without_emphasis(text: str) -> str:
    """A text without emphasis, fences and GSM8K's calculations (<<6*7=42>>), and with one writing of blanks, colons and minus signs."""
    text = _CALCULATION.sub("", text)
    text = re.sub(r"(?<=\d)\s?\u2013\s?(?=\d)", "-", text.replace("\r\n", "\n").translate(_SIGNS))
    return _EMPHASIS.sub("", text)


def without_text_commands(text: str) -> str:
    r"""LaTeX's words as words: \text{The answer is} 14."""
    return _TEXT_COMMAND.sub(r"\1", text)


def protected(text: str, labels: Sequence[str]) -> str:
    """A text in which a "not" of these labels denies nothing."""
    for label in labels:
        for match in reversed(list(re.finditer(rf"\b{re.escape(label)}\b", text, re.IGNORECASE))):
            kept = re.sub(r"\b(n)(?=ot?\b)", rf"\1{PROTECTED}", match.group(), flags=re.IGNORECASE)
            text = text[: match.start()] + kept + text[match.end() :]
    return text


def sentence_from(text: str, start: int) -> str:
    """From a place to the end of its sentence; of the next line that says something, where nothing more stands on this one."""
    lines = text[start : start + LONGEST].split("\n")
    line = next((line for line in lines if re.search(r"\w", re.sub(r"\\[\[\]()]|\$|[*_`#>]", "", line))), "")
    end = _SENTENCE_END.search(line)
    return line[: end.end()] if end and re.search(r"\w", line[: end.start()]) else line


def clause_before(text: str, end: int) -> str:
    """What stands before a place in its clause: behind the last comma, colon, full stop or "so"."""
    line = text[max(text.rfind("\n", 0, end) + 1, end - LONGEST) : end]
    return re.split(rf"[,;:]|{any_of('so', 'thus', 'therefore', 'hence', 'and', 'but')}", _SENTENCE_END.split(line)[-1], flags=re.I)[-1]


def sentences_from_the_end(text: str) -> Iterator[str]:
    """The sentences of a text, the last one first."""
    for line in reversed(text.split("\n")):
        ends = [0, *(match.end() for match in _SENTENCE_END.finditer(line)), len(line)]
        yield from (line[a:b] for a, b in reversed(list(pairwise(ends))) if re.search(r"\w", line[a:b]))


def is_question(sentence: str) -> bool:
    """Whether a sentence ends with a question mark."""
    return sentence.rstrip(" *\"')").endswith("?")
