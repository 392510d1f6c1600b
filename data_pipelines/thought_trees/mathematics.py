"""The grader of mathematics: numbers exactly, words as words, everything else by math-verify."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_pipelines.thought_trees.answers import LONGEST, plain
from data_pipelines.thought_trees.expressions import AND, FUNCTIONS, TRIGONOMETRIC, WORD, as_latex, is_maths
from data_pipelines.thought_trees.graders import Fields, Number
from data_pipelines.thought_trees.quantities import quantity, same_quantity
from data_pipelines.thought_trees.symbolic import canonical_expression, same_expression
from data_pipelines.thought_trees.units import COUNTED, unit_name

_CHOICE = re.compile(r"(?:(?:option|choice|answer)\s+)?(?:\(([A-Ja-j])\)|([A-J])[).:]|([A-J]))", re.IGNORECASE)
_CHOICE_WITH_TEXT = re.compile(r"(?:(?:option|choice|answer)\s+)?(?:\(([A-J])\)|([A-J])[).:](?=\s))\s*\S.*", re.DOTALL)
_TIME = re.compile(
    r"(\d{1,2})\s*:\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?\s*(?:([ap])\.?\s*m\.?)?|(\d{1,2})\s*([ap])\.?\s*m\.?|(noon|midnight)", re.I
)
_BASE = re.compile(r"\(?([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\)?\s*(?:_\s*\{?\s*(\d{1,2})\s*\}?|\(?\s*base\s*(\d{1,2})\s*\)?)")
_NAMED = re.compile(
    r"(\([A-Za-z\\][\w\\, ]*\)|\|?[A-Za-z\\][\w\\{}]*\|?(?:\s+[A-Za-z]+){0,3}"
    r"(?:'*|\^\s*\{?-1\}?)(?:\s*\(-?[^-()=+*/^]{1,20}\))?)\s*(?:=|\\in(?![A-Za-z])|\\approx)\s*(.+)"
)
_MARKED = re.compile(
    r"\\(?:overline|vec|mathbf|overrightarrow)\s*\{([^{}]*)\}|(?:\bm\s*)?\\(?:angle|triangle)(?![A-Za-z])\s*|\|([A-Z]{2})\||'+$"
)
_SET = re.compile(r"\\\{[^{}:|]*\\\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LONGEST_LIST = 20


class Maths(Number):
    """Answers as they stand in GSM8K and MATH (arXiv 2103.03874): numbers with or without a unit, LaTeX, sets, intervals, equations, words.

    Steps: their equations must hold, as for `number`. Equality of what is neither number nor word is math-verify's
    (github.com/huggingface/Math-Verify), which comes with `pip install 'align-preferences[eval]'`.
    """

    def canonical(self, answer: str, fields: Fields) -> str | None:
        r"""A number exactly, words in lower case, another expression in sympy's writing; None where it is nothing of the kind.

        >>> maths = Maths()
        >>> maths.canonical("$1,250.50", {}), maths.canonical(r"\boxed{\dfrac{3}{6}}.", {}), maths.canonical(r"\text{East}", {})
        ('2501/2', '1/2', 'east')
        """
        text = plain(answer)
        if len(text) > LONGEST:
            return _squeezed(text)
        named = _NAMED.fullmatch(text)
        text = named.group(2) if named and "=" not in named.group(2) and _is_name(named.group(1)) else text
        read = quantity(text)
        if read is not None:
            return str(read.value) + ("%" if read.percent else "")
        choice = _CHOICE.fullmatch(text)
        if choice:
            return next(letter for letter in choice.groups() if letter).upper()
        expression = _without_unit(text)
        if not is_maths(expression):
            return " ".join(text.lower().split()) or None
        return canonical_expression(as_latex(expression)) or "".join(expression.split()) or None

    def is_right(self, answer: str | None, gold: Sequence[str], fields: Fields) -> bool:
        r"""Whether a stated answer equals one of the gold answers.

        >>> maths = Maths()
        >>> maths.is_right("0.5", [r"\frac{1}{2}"], {}), maths.is_right("x = 4", ["4"], {}), maths.is_right(None, ["4"], {})
        (True, True, False)
        """
        if answer is None:
            return False
        mine = plain(answer)
        return bool(mine) and any(equal(mine, plain(right)) for right in gold)


def equal(mine: str, gold: str) -> bool:
    r"""Whether two answers in `plain` writing are equal.

    >>> equal("p-q", "p - q"), equal("5 and 6", "6, 5"), equal("50%", "0.5"), equal("2 \\pi", "2"), equal("5:30 pm", "5:30 PM")
    (True, True, True, False, True)
    """
    if _squeezed(mine) == _squeezed(gold):
        return True
    if max(len(mine), len(gold)) > LONGEST:
        return False
    mine, gold = _values_of_one_name(mine, gold)
    for same in (_same_choice, _same_time, _same_base, _same_list, _same_number):
        verdict = same(mine, gold)
        if verdict is not None:
            return verdict
    return _same_words_or_expression(mine, gold)


def _squeezed(text: str) -> str:
    """Without blanks, but for those between two numbers or two words."""
    return re.sub(r"\s+(?![\w.])|(?<![\w.])\s+", "", text)


def _values_of_one_name(mine: str, gold: str) -> tuple[str, str]:
    """What stands after "x =" where both answers name the same thing, or only one of them names it; "\\in" names a set likewise."""
    left, right = _NAMED.fullmatch(mine), _NAMED.fullmatch(gold)
    if any(match and "=" in match.group(2) and len(_items(match.group(2))) > 1 for match in (left, right)):
        return mine, gold  # "x = 2 or x = 3": a list whose items have names
    if left and right:
        same = _squeezed(left.group(1)).lower() == _squeezed(right.group(1)).lower()
        return (left.group(2), right.group(2)) if same else (mine, gold)
    if left and _is_name(left.group(1)) and "=" not in gold:
        return re.split(r"(?<![<>!\\])=", left.group(2))[-1].strip() if "," not in left.group(2) else left.group(2), gold
    if right and _is_name(right.group(1)) and "=" not in right.group(2) and "=" not in mine:
        return mine, right.group(2)
    return mine, gold


def _is_name(text: str) -> bool:
    """Whether the left side of an equation names a value: "x", "f(x)", "the area"; not "2x" or "xy"."""
    name = re.sub(r"(?:\^\s*\{?-1\}?)?\s*\([^)]*\)$", "", text.strip())
    if not name:
        return all(_is_name(part) for part in text.strip("() ").split(","))
    name = _MARKED.sub(r"\1\2", name).strip()
    return name.lstrip("\\") not in FUNCTIONS and bool(
        re.fullmatch(
            r"\\?[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+|[A-Za-z]{3,}(?:\s+[A-Za-z]+)*|[A-Z]{2,3}|d[a-z]/d[a-z]|\\frac\s*d[a-z]\s*d[a-z]", name
        )
    )


def _same_choice(mine: str, gold: str) -> bool | None:
    """Where the gold answer is a letter to choose: "(A)", "A", "A. twelve"."""
    right = _CHOICE.fullmatch(gold)
    if right is None or (len(gold) == 1 and gold.islower()):
        return None
    letter = next(part for part in right.groups() if part).upper()
    match = _CHOICE.fullmatch(mine) or _CHOICE_WITH_TEXT.fullmatch(mine)
    if match is None or (len(mine) == 1 and mine.islower()):
        return None
    return next(part for part in match.groups() if part).upper() == letter


def _same_time(mine: str, gold: str) -> bool | None:
    """Times of day; one that does not say before or after noon equals either."""
    left, right = _TIME.fullmatch(mine), _TIME.fullmatch(gold)
    if left is None or right is None:
        return None
    (hour, minutes, half), (gold_hour, gold_minutes, gold_half) = _clock(left), _clock(right)
    if minutes != gold_minutes:
        return False
    if half and gold_half:
        return half == gold_half and hour % 12 == gold_hour % 12
    if half or gold_half:
        after_noon = (half or gold_half) == "p"
        stated, other = (hour, gold_hour) if half else (gold_hour, hour)
        return other == stated % 12 + 12 * after_noon or other == stated
    return hour == gold_hour


def _clock(match: re.Match[str]) -> tuple[int, tuple[int, int], str]:
    hour, minute, second, half, whole, whole_half, name = match.groups()
    if name:
        return 12, (0, 0), "p" if name.lower() == "noon" else "a"
    return int(hour or whole), (int(minute or 0), int(second or 0)), (half or whole_half or "").lower()


def _same_base(mine: str, gold: str) -> bool | None:
    """Numerals with their base: digits and base must be the same."""
    left, right = _BASE.fullmatch(mine), _BASE.fullmatch(gold)
    if left is None and right is None:
        return None
    if left is None or right is None:
        return False
    return left.group(1).lower().lstrip("0") == right.group(1).lower().lstrip("0") and (left.group(2) or left.group(3)) == (
        right.group(2) or right.group(3)
    )


def _same_list(mine: str, gold: str) -> bool | None:
    """Several answers beside each other, in any order; None where neither is a list without brackets, or only one can be read as one."""
    left, right = _items(mine), _items(gold)
    if max(len(left), len(right)) < 2:
        return None
    if len(left) == 1:
        left = _items(mine, thousands=False)
    if len(right) == 1:
        right = _items(gold, thousands=False)
    if min(len(left), len(right)) < 2:
        return None
    if len(left) != len(right) or len(left) > _LONGEST_LIST:
        return False
    rest = list(right)
    for item in left:
        match = next((other for other in rest if _same_item(item, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _same_item(mine: str, gold: str) -> bool:
    """Equality within a list, where counted things tell numbers apart: "7 apples and 3 pears"."""
    left, right = quantity(mine), quantity(gold)
    if left is not None and right is not None and left.unit == right.unit == COUNTED:
        words = [" ".join(WORD.findall(text.lower())).rstrip("s") for text in (mine, gold)]
        if all(words) and words[0] != words[1]:
            return False
    return equal(mine, gold)


def _items(text: str, *, thousands: bool = True) -> list[str]:
    """The parts of a list, split where no bracket is open.

    Args:
        text: an answer.
        thousands: whether a comma before three digits belongs to the number.
    """
    text = AND.sub(", ", text)
    hidden = _THOUSANDS.sub("\0", text) if thousands else text
    parts, depth, start = [], 0, 0
    for index, character in enumerate(hidden):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(hidden[start:index])
            start = index + 1
    parts.append(hidden[start:])
    if len(parts) == 1 and text.count(r"\pm") == 1 and not text.startswith(("(", "[", "\\{")):
        parts = [text.replace(r"\pm", sign) for sign in ("+", "-")]
    return [part.replace("\0", ",").strip() for part in parts]


def _same_number(mine: str, gold: str) -> bool | None:
    left, right = quantity(mine), quantity(gold)
    return same_quantity(left, right) if left is not None and right is not None else None


def _same_words_or_expression(mine: str, gold: str) -> bool:
    left, right = _without_unit(mine), _without_unit(gold)
    if not is_maths(left) or not is_maths(right):
        return _words(mine) == _words(gold)
    if any(_SET.fullmatch(one) and other.startswith(("(", "[")) for one, other in ((left, right), (right, left))):
        return False  # a set against a tuple or an interval, which math-verify takes for equal where the numbers are
    (left, left_percent), (right, right_percent) = _percent_split(left), _percent_split(right)
    if "=" in left and "=" not in right and re.search("[A-Za-z]", left.partition("=")[0]):
        return False  # an equation that is not solved, "2x = 10"
    left, right = as_latex(left), as_latex(right)
    if same_expression(left, right):
        return True
    if left_percent == right_percent:
        return False
    return same_expression(*((rf"\frac{{{left}}}{{100}}", right) if left_percent else (left, rf"\frac{{{right}}}{{100}}")))


def _words(text: str) -> str:
    """Words in lower case, without articles, "and" and commas: "the East", "3 hours and 20 minutes"."""
    return " ".join(re.sub(r"\b(?:an?|the|and)\s+(?=[a-z\d])|,(?=\s)", "", text.lower()).split())


def _percent_split(text: str) -> tuple[str, bool]:
    core = re.sub(r"\s*(?:%|percent)$", "", text)
    return core, core != text


def _without_unit(text: str) -> str:
    r"""An answer without the unit at its end and the currency sign at its beginning.

    >>> _without_unit(r"2\sqrt{3} cm^2"), _without_unit(r"5\pi square feet"), _without_unit("5 x"), _without_unit("$2x")
    ('2\\sqrt{3}', '5\\pi', '5 x', '2x')
    """
    read = quantity(text)
    if read is not None and not read.percent and (read.unit or WORD.search(text)):  # "1 million", too
        value = read.value
        return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    text = re.sub(r"^(-?)\s*[$€£¥₹]\s*", r"\1", text)
    for match in re.finditer(r"(?<=[\d})])\s*(?=[A-Za-z°%/])|(?<=\\pi)\s+(?=[A-Za-z°])|(?<=[A-Za-z])\s+(?=[A-Za-z°])", text):
        phrase = text[match.start() :]
        unit = unit_name(phrase, after_number=False)
        if unit is None or (unit == COUNTED and text[match.start() - 1].isalpha()):
            continue
        if "°" in phrase and TRIGONOMETRIC.search(text):
            continue
        if not re.search(r"\\[a-zA-Z]*$", text[: match.end()] + text[match.end()]):
            return text[: match.start()].strip()
    return text
