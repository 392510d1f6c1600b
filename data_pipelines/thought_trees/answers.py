"""Stated answers as they stand in chat models' texts, brought into one writing: boxes, dollars, emphasis, LaTeX's spacing, Unicode."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?=\{)")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s+|(?=\d))([^\s{}$.,;]+)")  # \boxed 5
_BETWEEN_BOXES = re.compile(r"[\s$,;]*(?:\\text\s*\{)?\s*(?:and|or)?\s*\}?[\s$,;]*")
_EMPHASIS = re.compile(r"(?<![\w)*])(\*\*\*|\*\*|__|`)(?=\S)([^*`]{1,400}?)(?<=\S)\1(?![\w(*])")
_STARRED = re.compile(r"\*([^*]+)\*")
_DOLLARS = re.compile(r"(?<!\\)\$\$?([^$]*?)(?<!\\)\$\$?")
_SYMBOLS = {
    "−": "-", "‐": "-", "‑": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ",
    "∗": "*", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "±": r"\pm ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "½": " 1/2",
    "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4",
    "⅕": " 1/5", "⅛": " 1/8", "⁄": "/", "\u00a0": " ",
    "\u202f": " ", "\u2009": " ", "’": "'", "‘": "'", "“": '"', "”": '"', "º": "°", "≈": r"\approx ", "→": r"\to ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
}  # fmt: skip
_RAISED, _LOWERED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+"), re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉", "0123456789-0123456789")
_TRANSLATION = str.maketrans(_SYMBOLS)
_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|displaystyle|textstyle|limits)(?![A-Za-z])\s*\.?", ""),
        (r"(?<!\\)\\!\s*|\\(?:phantom|hspace|vspace)\{[^{}]*\}", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick)?space(?![A-Za-z])", " "),
        (r"(?<!\\)\\[\[\]()]", " "),
        (r"\{,\}", ","),
        (r"\{\s*([^{}]*?)\s*\\choose(?![A-Za-z])\s*([^{}]*?)\s*\}", r"\\binom{\1}{\2}"),
        (r"(\.\d*?)(?:(\d)\2{2,}|(\d{2,6})\3+)\s*(?:\.{3}|…|\\[lc]?dots(?![A-Za-z]))", r"\1\\overline{\2\3}"),
        (r"(?<=[\d.])\\bar\s*(?=\{\d)", r"\\overline"),
        (r"(?<=\d)\s*(?:\^\s*\{?)?\s*(?:\\text\s*\{)?\s*(?:st|nd|rd|th)(?![A-Za-z])(?:\s*\}){0,2}", ""),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox|rm|bf|emph)\s*\{([^{}]*)\}", r" \1 "),
        (r"\s+\^", "^"),
        (r"\\%", "%"),
        (r"\\(?:&|#|_)", " "),
        (r"\\(?:varnothing)(?![A-Za-z])", r"\\emptyset"),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\(?:degree|textdegree)(?![A-Za-z])|\^\s*\{?\s*\\circ\s*\}?|\^\s*\{?\s*°\s*\}?", "° "),
        (r"\\(?:euro|texteuro)(?![A-Za-z])(?:\{\})?", "€"),
        (r"\\(?:pounds|textsterling)(?![A-Za-z])(?:\{\})?", "£"),
        (r"\\(?:leq|leqslant)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
    )
]
_BEFORE = re.compile(
    r"(?:≈|\\approx|=|:|about|approximately|approx\.?|roughly|exactly|(?:the\s+)?(?:final\s+)?answer\s*(?:is\b|:)\s*:?)"
    r"\s*(?=\S)(?![A-Za-z]*\s+[a-z]{4,})",
    re.IGNORECASE,
)
_AROUND = "\"'“”"
_BOXES, _APART = 20, 40  # the last boxes that are looked at, and the characters between two of one list
LONGEST = 2000
"""Characters of an answer that are read; a longer one equals only itself."""


def unboxed(answer: str) -> str:
    r"""What the last \boxed{} of an answer holds, or the last ones, joined by commas, where only "and", "or" or a comma stands between.

    >>> unboxed(r"so it is $\boxed{\frac{1}{2}}$."), unboxed(r"\boxed{2} or \boxed{3}"), unboxed("$7$.")
    ('\\frac{1}{2}', '2, 3', '$7$.')
    """
    boxes: list[tuple[int, int, str]] = []
    answer = _BARE_BOX.sub(r"\\boxed{\1}", answer)
    for match in list(_BOX.finditer(answer))[-_BOXES:]:
        if boxes and match.start() < boxes[-1][1]:
            boxes.pop()  # a box within a box: the inner one
        end = _closing(answer, match.end())
        boxes.append((match.start(), end, answer[match.end() + 1 : end].strip()))
    if not boxes:
        return answer
    last = [boxes[-1]]
    for box in boxes[-2::-1]:
        if last[0][0] - box[1] > _APART or _BETWEEN_BOXES.fullmatch(answer, box[1] + 1, last[0][0]) is None:
            break
        last.insert(0, box)
    return ", ".join(dict.fromkeys(content for _, _, content in last))


def _closing(text: str, start: int) -> int:
    """Where the brace that opens at `start` is closed; the text's end where it is not."""
    depth = 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return end
    return len(text)


def plain(answer: str) -> str:
    r"""A stated answer in one writing: without box, dollars, emphasis, spacing commands, text commands and the full stop at its end.

    >>> plain(r"**\$1,\!250.50**."), plain(r"$\boxed{12\text{ cm}^2}$"), plain(r"\(\dfrac12\)"), plain("{3} apples")
    ('$1,250.50', '12 cm^2', '\\frac{1}{2}', '3 apples')
    """
    text = unboxed(answer)
    if len(text) > LONGEST:
        return text.strip()
    text = _RAISED.sub(lambda match: f"^{{{match.group().translate(_DIGITS)}}}", text.translate(_TRANSLATION))
    text = _LOWERED.sub(lambda match: f"_{{{match.group().translate(_DIGITS)}}}", text)
    text = _DOLLARS.sub(_without_dollars, text)
    text = text.replace("\\$", "$")
    for _ in range(2):
        text = _EMPHASIS.sub(r"\2", text.strip())
    starred = _STARRED.fullmatch(text)
    text = starred.group(1) if starred else text
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return _trimmed(_braces_dropped(" ".join(text.split())))


def _without_dollars(match: re.Match[str]) -> str:
    """What stands between dollars; "$5 and $6" are two prices."""
    inside = match.group(1)
    return match.group() if re.search(r"\d\s*(?:and|or|to|,)\s*$", inside) else f" {inside} "


def _braces_dropped(text: str) -> str:
    r"""Braces around the whole are a set where a comma is within; around the beginning they only group: "{3} apples"."""
    if text.startswith("{"):
        end = _closing(text, 0)
        if end == len(text) - 1 and "," in text:
            return "\\{" + text[1:-1] + "\\}"
        if end < len(text):
            return f"{text[1:end]}{text[end + 1 :]}"
    return text


def _trimmed(text: str) -> str:
    for _ in range(3):
        text = text.strip().rstrip(".;,").strip()
        if len(text) > 1 and text[0] in _AROUND and text[-1] in _AROUND:
            text = text[1:-1]
        if text.endswith("\\\\"):
            text = text[:-2]
        before = _BEFORE.match(text)
        if before:
            text = text[before.end() :]
    return text.strip()
