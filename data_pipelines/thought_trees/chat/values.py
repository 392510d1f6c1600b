"""From what is said to be the answer, a claim in a sentence, to the answer itself: a number, a formula, an expression, words."""

from __future__ import annotations

import re

from data_pipelines.thought_trees.chat.text import any_of
from data_pipelines.thought_trees.number_words import number_in_words

AMBIGUOUS = "\0"
"""Stands for a claim that leaves a choice: "12 or 14"."""

_CURRENCY = "$€£¥₹"
_NUMBER = re.compile(
    rf"(?<![\w.^])(?P<sign>[-+]\s?)?(?P<currency>[{_CURRENCY}]\s?)?(?P<inner>-)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?P<decimals>\.\d+)?(?P<exponent>[eE][-+]?\d+)?"
    r"(?P<mixed>\s\d+/\d+(?!\d|\.\d))?(?P<fraction>\s?/\s?\d+(?!\d|\.\d))?"
    r"(?P<magnitude>\s*%|\s+percent\b|\s+(?:hundred|thousand|million|billion|trillion|dozen)\b|(?(currency)[kKMB]\b))?"
)
_EXPLAINS = (
    "because", "since", "which", "as (?:he|she|it|they|we|the|there|this|that)", "who", "where", "so that", "assuming", "given", "if",
    "when", "after", "before", "rather than", "instead of", "not", "and not", r"i\.e\.", "that is", "including", "meaning",
)  # fmt: skip
_EXPLAINED = re.compile(rf"\s*(?:[,;]\s*|\s|\()(?:{'|'.join(_EXPLAINS)})\b.*", re.IGNORECASE | re.DOTALL)
_CHOICE = re.compile(  # 12 or 14, 12 apples to 14, 12, 14; 2 hours 30 minutes
    r"\s*(?:[^\d\s,.;]+\s+){0,2}?(?:(?:or|to|and|through|-|~)\s*|(?:[^\d\s,.;]+)?,\s*(?:(?:or|and)\s+)?)(?:[^\d\s,.;]+\s+)?[$€£¥]?\d"
    r"|\s*(?:h|hrs?|hours?|min|minutes?|days?|weeks?|months?|years?|ft|feet|foot|lbs?|pounds?|dollars?|meters?|metres?)\s+\d",
    re.IGNORECASE,
)
_GOES_ON = re.compile(  # 1.2.3, 3:30, 2x, 25% of 40, 5 + 9, 1 000, 3 times as many
    r"[.,]\d|:\d|[abjknpqruxyz](?![A-Za-z])|(?<=[%t])\s+of\b|\s*(?:[-+*/×÷^]|x\b)\s*(?:[($]?\d|\(|[a-z]\b)|\s+\d|\s*times\s+(?:as|more|the|\w+er)\b",
    re.IGNORECASE,
)
_OPERAND = re.compile(r"(?:(?<![A-Za-z])[b-hj-z]\s*[-+]|[\w)]\s*[*/×÷^])\s*$")  # x + 14, 3 * 14
_RANGE = re.compile(
    r"\W*(?:somewhere\s+)?" + any_of(
        "between", "either", "from", "one of", "at least", "at most", "(?:no |not )?(?:more|less|fewer|other|greater|larger|smaller) than",
        "over", "under", "far from", "anything but", "near(?:ly)?",
    ),
    re.IGNORECASE,
)  # fmt: skip
_FILLER = any_of(
    "a", "an", "the", "about", "approximately", "around", "exactly", "just", "simply", "thus", "therefore", "then", "indeed", "now", "only",
    "total", "sum", "of", "equal", "equals", "to", "is", "are", "it", "we", "get", "usd", "rs", "[a-z]",
)  # fmt: skip
_FILLED = re.compile(rf"(?:\W|{_FILLER})*", re.IGNORECASE)


def number_in(claim: str) -> str | None:
    """The number that a claim names; `AMBIGUOUS` where it names several, None where it names none.

    >>> number_in(" $18 a day, not 12."), number_in("5 + 9 = 14 apples"), number_in("12 or 14") == AMBIGUOUS, number_in("large")
    ('$18', '14', True, None)
    """
    text = _readable(claim)
    text = _shortened(text)
    pieces = re.split(r"=|≈", text)
    for piece in reversed(pieces):
        value = _lone(piece, alone=len(pieces) == 1)
        if value == AMBIGUOUS and len(pieces) > 1:
            continue
        if value is not None:
            return value
    return _word(text)


def stands_first(claim: str) -> bool:
    """Whether a claim begins with its number, filling words aside: "about 14 rolls", and not "the baker has 14 rolls"."""
    text = _readable(claim)
    first = _NUMBER.search(text)
    return first is not None and _FILLED.fullmatch(text[: first.start()]) is not None


def numbers_of(text: str) -> list[str]:
    """Every number of a text, in the writing in which equal ones are equal: without currency and thousands separators.

    >>> numbers_of("$1,250.50 in 3 days")
    ['1250.50', '3']
    """
    return [_written(match).lstrip(_CURRENCY) for match in _NUMBER.finditer(_readable(text))]


def _lone(piece: str, alone: bool) -> str | None:
    """The number of one side of an equation, or of a claim without one."""
    matches = list(_NUMBER.finditer(piece))
    if not matches:
        return None
    if _RANGE.match(piece):
        return AMBIGUOUS
    first, rest = matches[0], piece[matches[0].end() :]
    if _GOES_ON.match(piece, first.end()) or _CHOICE.match(rest) or _OPERAND.search(piece[: first.start()] + (first["sign"] or "")):
        return AMBIGUOUS
    several = len({_written(match) for match in matches}) > 1
    if several and not _FILLED.fullmatch(piece[: first.start()]):
        return AMBIGUOUS if alone else None
    return _written(first)


def _written(match: re.Match[str]) -> str:
    sign = "-" if (match["sign"] or "").startswith("-") or match["inner"] else ""
    whole = (match["digits"].replace(",", "") or "0") + (match["decimals"] or "") + (match["exponent"] or "")
    whole += (match["mixed"] or "") + (match["fraction"] or "").replace(" ", "")
    return sign + (match["currency"] or "").strip() + whole + (match["magnitude"] or "")


def _word(text: str) -> str | None:
    """The number in words that a text begins with: "fourteen rolls"; not "one of them"."""
    text = text.lstrip(" *_\"'([")
    named = number_in_words(text)
    return str(named[0]) if named and not re.match(r"\s+(?:of|or|to)\b", text[named[1] :]) else None


def _readable(text: str) -> str:
    r"""LaTeX's numbers in plain writing: \$1{,}250 → $1,250, \frac{1}{2} → 1/2."""
    text = re.sub(r"(\d)?\\[td]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))", _as_fraction, text)
    text = re.sub(r"\\[!,;:]|\{,\}|\\ ", lambda match: "," if match.group() == "{,}" else "", text)
    text = re.sub(r"\\(?:times|cdot)(?![A-Za-z])", "*", text).replace(r"\approx", "≈").replace(r"\div", "/")
    text = re.sub(r"\\(?:boxed|fbox|text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([$%#&])", r"\1", text)
    text = re.sub(r"(?<!\w)_([^_\n]+)_(?!\w)", r"\1", text)
    text = re.sub(r"(?<!\\)\$(?=\S)([^$\n]*[^\s$\\])\$(?![\d$])", r" \1 ", text)
    text = re.sub(r"\\[()\[\]]|[{}*_`]{2,}|(?<!\S)\$(?=\s)|(?<=[\d.)%\w])\$|\$\$", " ", text)
    text = re.sub(r"\bnegative\s+(?=[$€£]?\d)|(?<![\w)%] )\bminus\s+(?=[$€£]?\d)", "-", text, flags=re.IGNORECASE)
    return text.replace("\u2212", "-")


def _as_fraction(match: re.Match[str]) -> str:
    whole, *parts = match.groups()
    return (whole + " " if whole else "") + "/".join(part for part in parts if part)


def _shortened(claim: str) -> str:
    """A claim without what explains it, unless it begins with that."""
    cut = _EXPLAINED.sub("", claim)
    cut = re.sub(r"(?<=\w)\s*\([^)]*\)?.*$", "", cut, flags=re.DOTALL) if re.search(r"\d[^(]*\(", cut) else cut
    return cut if re.search(r"\w", cut) else claim


def formula_in(claim: str) -> str | None:
    r"""A formula as it is written, without the sentence's end and the dollars around it.

    >>> formula_in(r" $\frac{1}{2}$."), formula_in(r"\boxed{x^2}")
    ('\\frac{1}{2}', 'x^2')
    """
    text = claim.strip().strip("*_` ").strip()
    boxed = re.fullmatch(r"(?:\\\[|\\\(|\$+)?\s*\\(?:boxed|fbox)\{(.*)\}\s*(?:\\\]|\\\)|\$+)?\s*\.?", text)
    if boxed:
        text = boxed.group(1)
    text = re.sub(
        r"[,;]?\s+(?:because|since|which|as|where|when|or (?:about|approximately)|of (?:the|an?))\b.*$", "", text, flags=re.IGNORECASE
    )
    text = re.sub(r"[.!;,:\s]+$", "", text.strip())
    inner = re.fullmatch(r"\$+\s*([^$]+?)\s*\$+|\\\(\s*(.+?)\s*\\\)|\\\[\s*(.+?)\s*\\\]", text)
    text = next(group for group in inner.groups() if group) if inner else text
    return re.sub(r"[.!;,:\s]+$", "", text) or None


def expression_in(claim: str) -> str | None:
    r"""An expression in plain signs.

    >>> expression_in(r"$(6 - 4) \times (4 + 8) = 24$.")
    '(6 - 4) * (4 + 8) = 24'
    """
    text = formula_in(claim) or ""
    text = re.sub(r"\\times|\\cdot|×|·", "*", text)
    text = re.sub(r"\\div|÷", "/", text).replace("\\left", "").replace("\\right", "").replace("−", "-")
    return " ".join(text.strip("$ `").split()) or None


def words_in(claim: str) -> str | None:
    """A short answer in words, without what explains it, quotes and the sentence's end.

    >>> words_in(' "the Seine", which flows through Paris.'), words_in(" Washington, D.C.")
    ('the Seine', 'Washington, D.C')
    """
    text = re.sub(r"\\(?:boxed|fbox|text)\s*\{([^{}]*)\}", r"\1", claim)
    text = re.sub(
        r"[,;]?\s+(?:because|since|which|who|as (?!well)|where|rather than|instead of)\b.*$|[,;]\s+(?:and |but )?not\b.*$", "", text
    )
    text = re.sub(r"\s+[-\u2013\u2014]\s.*$", "", text)
    text = text.strip().strip("\"'`*_$[]<>\u201c\u201d ").rstrip(".!;:, ").strip("\"'`*_$\u201c\u201d ")
    return text if re.search(r"\w", text) else None
