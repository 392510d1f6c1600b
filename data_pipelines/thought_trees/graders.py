"""Graders: is the stated answer the gold one, and is a step right where that can be seen? A new one is a class in `GRADERS`."""

from __future__ import annotations

import ast
import inspect
import operator
import re
import string
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from align.errors import AlignError, nearest
from align.registry import Registry
from data_pipelines.thought_trees.answers import plain
from data_pipelines.thought_trees.quantities import quantity

Fields = Mapping[str, str]


class Grader:
    """Compares answers in a canonical form; subclasses say what that is, and may check single steps."""

    def __init__(self, **options: Any) -> None:
        """Args: options of the task file's `grader`.

        Raises:
            AlignError: the grader has no such option.
        """
        if options:
            raise AlignError(f"grader: there is no option '{next(iter(options))}' for this grader")

    def canonical(self, answer: str, fields: Fields) -> str | None:
        """An answer in the form in which equal answers are equal texts; None where it is none.

        Args:
            answer: as stated.
            fields: the question's.
        """
        raise NotImplementedError

    def is_right(self, answer: str | None, gold: Sequence[str], fields: Fields) -> bool:
        """Whether a stated answer is one of the gold answers."""
        mine = None if answer is None else self.canonical(answer, fields)
        return mine is not None and mine in [self.canonical(one, fields) for one in gold]

    def agree(self, answer: str, other: str) -> bool:
        """Whether two answers in canonical form say the same, so that a search prefers neither to the other."""
        return answer == other

    def check_step(self, thoughts: Sequence[str], fields: Fields) -> bool | None:
        """Whether the last of these thoughts is right; None where it cannot be seen.

        Args:
            thoughts: a path from the question on.
            fields: the question's.
        """
        return None


class Text(Grader):
    """Short answers in words: case, punctuation, articles and blanks do not count (the rule of SQuAD v1.1's evaluation)."""

    def __init__(self, match: str = "exact") -> None:
        """Args: match: "exact", or "contained": the gold answer's words stand one after the other in the stated answer, as CPO's authors
        grade question answering (there any characters do: "no" counts as contained in "unknown"; here whole words only).

        Raises:
            AlignError: no such match.
        """
        if match not in ("exact", "contained"):
            raise AlignError(f"grader.match is '{match}': {nearest(match, ('exact', 'contained'))}")
        self._contained = match == "contained"

    def canonical(self, answer: str, fields: Fields) -> str | None:
        """
        >>> Text().canonical(" The Eiffel  Tower. ", {}), Text().canonical("U.S.", {})
        ('eiffel tower', 'us')
        """
        plain = "".join(c for c in answer.lower() if c not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split()) or None

    def is_right(self, answer: str | None, gold: Sequence[str], fields: Fields) -> bool:
        """
        >>> Text().is_right("Paris, France", ["Paris"], {}), Text(match="contained").is_right("Paris, France", ["Paris"], {})
        (False, True)
        """
        if not self._contained:
            return super().is_right(answer, gold, fields)
        mine = self.canonical(answer or "", fields)
        right = [self.canonical(text, fields) for text in gold]
        return mine is not None and any(text is not None and _holds(mine, text) for text in right)

    def agree(self, answer: str, other: str) -> bool:
        """Equal answers; with `match: contained`, one within the other, or both a "yes" or both a "no".

        >>> Text(match="contained").agree("paris", "paris france"), Text(match="contained").agree("yes he did", "yes")
        (True, True)
        """
        if not self._contained:
            return answer == other
        both = any(_holds(answer, word) and _holds(other, word) for word in ("yes", "no"))
        return both or _holds(answer, other) or _holds(other, answer)


def _holds(text: str, words: str) -> bool:
    return f" {words} " in f" {text} "


class Label(Grader):
    """One of a few labels, each known by patterns, the first of which names it.

    >>> grader = Label(labels={"SUPPORTS": ["supports", "supported"], "REFUTES": ["refutes"]})
    >>> grader.canonical("It is supported.", {}), grader.canonical("supports or refutes", {})
    ('SUPPORTS', None)
    """

    def __init__(self, labels: Mapping[str, Sequence[str]], otherwise: Mapping[str, Sequence[str]] | None = None) -> None:
        """Args: labels, each with the texts that stand for it, in any case; a text that names two labels names none. otherwise, texts that
        stand for a label where none is named: "correct".

        Raises:
            AlignError: an option is no such mapping.
        """
        for name, option in (("labels", labels), ("otherwise", otherwise or {})):
            if not isinstance(option, Mapping) or any(
                isinstance(texts, str) or not isinstance(texts, Sequence) for texts in option.values()
            ):
                raise AlignError(f"grader.{name}: expected labels, each with a list of texts, such as {{SUPPORTS: [supported]}}")
        self._patterns = {label: _any_of((label, *texts)) for label, texts in labels.items()}
        self._otherwise = {label: _any_of(texts) for label, texts in (otherwise or {}).items()}

    def canonical(self, answer: str, fields: Fields) -> str | None:
        """The only label that the answer names."""
        named = [label for label, pattern in self._patterns.items() if pattern.search(answer)]
        named = named or [label for label, pattern in self._otherwise.items() if pattern.search(answer)]
        return named[0] if len(named) == 1 else None


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b{re.escape(text)}\b" for text in texts), re.IGNORECASE)


_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)])[-−])?(?:[$€£¥₹](?P<later_minus>[-−])?)?(?<![\^_\w])(?<!\^\{)"
    r"(?:(?P<whole>\d+)\s+(?P<part>\d+/\d+)|(?P<digits>(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w)|/\d+)?))(?![eE]\d)"
)
_OPERATOR_BEFORE, _MORE_AFTER = re.compile(r"[-+*/x×÷]\s*$"), re.compile(r"\s*\w*\s*(?:\d|[-+*/×÷])")
_EQUATION = re.compile(  # an operator behind the first sign is looked for once, so that long lines of signs take no time
    r"(?<![\w.%])(?=[-\d(][\d\s.,()]*[-+*/x×÷])([-\d(][\d\s.,()+\-*/x×÷]{0,400})=\s*\$?(-?\d[\d,]*(?:\.\d+)?)(?![\d/%])"
)


class Number(Grader):
    """A number; units, currency signs and thousands separators do not count. Steps: their equations must hold."""

    def canonical(self, answer: str, fields: Fields) -> str | None:
        """The number that the answer is, with its magnitude ("2 million"), or else the last number in it, exactly.

        >>> Number().canonical("$1,250.50 a week", {}), Number().canonical("1 1/2 hours", {}), Number().canonical("none", {})
        ('2501/2', '3/2', None)
        >>> Number().canonical("so it covers 12 m^2", {}), Number().canonical("10-5 makes 5e3", {}), Number().canonical("It is -$5.", {})
        ('12', '5000', '-5')
        """
        whole = quantity(plain(answer))
        if whole is not None:
            return str(whole.value)
        numbers = list(_NUMBER.finditer(answer))
        if not numbers:
            return None
        match = numbers[-1]
        try:
            parts = (match["digits"] or match["part"]).replace(",", "").split("/")
            value = Fraction(match["whole"] or 0) + Fraction(parts[0]) / Fraction(parts[-1] if len(parts) > 1 else 1)
        except (ValueError, ZeroDivisionError):
            return None
        return str(-value if bool(match["minus"]) != bool(match["later_minus"]) else value)

    def check_step(self, thoughts: Sequence[str], fields: Fields) -> bool | None:
        """Whether every equation of the last thought holds to the digits it gives; None without equations.

        >>> Number().check_step(["12 * 3 = 36, and 36 / 7 = 5.14"], {}), Number().check_step(["2 + 2 = 5"], {})
        (True, False)
        """
        held = []
        for match in _EQUATION.finditer(thoughts[-1]):
            left, right = match.groups()
            if _OPERATOR_BEFORE.search(thoughts[-1][: match.start()]) or _MORE_AFTER.match(thoughts[-1][match.end() :]):
                continue  # units stand between the terms: this is not the whole equation
            value = arithmetic(left.replace(",", "").replace("x", "*").replace("×", "*").replace("÷", "/"))
            if value is not None:
                stated = right.replace(",", "")
                held.append(abs(value - Fraction(stated)) <= Fraction(1, 10 ** len(stated.partition(".")[2])) * (1 if "." in stated else 0))
        return all(held) if held else None


class Game24(Grader):
    """An expression of the question's four numbers, each used once, that makes 24. Steps: `a op b = c (left: …)`, as in ToT."""

    STEP = re.compile(r"\s*\(?(-?[\d./]+)\)?\s*([-+*/])\s*\(?(-?[\d./]+)\)?\s*=\s*(-?[\d./]+)\s*\(left:([^)]*)\)")

    def canonical(self, answer: str, fields: Fields) -> str | None:
        """ "24" for an expression that is right, else the expression itself."""
        left, _, right = answer.partition("=")
        value = arithmetic(left)
        numbers = sorted(re.findall(r"\d+", left)) == sorted(fields["numbers"].split())
        stated_24 = not right or right.strip() == "24"
        return "24" if value == 24 and numbers and stated_24 else " ".join(left.split()) or None

    def check_step(self, thoughts: Sequence[str], fields: Fields) -> bool | None:
        """Whether the last step combines two numbers that were left, rightly, and lists what is left now.

        >>> Game24().check_step(["4 * 5 = 20 (left: 6 10 20)"], {"numbers": "4 5 6 10"})
        True
        >>> Game24().check_step(["4 * 5 = 20 (left: 6 20)"], {"numbers": "4 5 6 10"})
        False
        """
        left = fields["numbers"].split()
        for thought in thoughts:
            step = self.STEP.match(thought)
            if step is None:
                return None
            one, sign, other, result, rest = step.groups()
            before, after, numbers = _fractions(left), _fractions(rest.split()), _fractions([one, other, result])
            value = arithmetic(f"({one}) {sign} ({other})")
            if before is None or after is None or numbers is None or numbers[2] != value:
                return False
            for number in numbers[:2]:
                if number not in before:
                    return False
                before.remove(number)
            if sorted([*before, value]) != sorted(after):
                return False
            left = rest.split()
        return True


class Sums(Grader):
    """The micro sums: `7+6=13` a step, chained; with `modulo`, the last digits only."""

    def __init__(self, modulo: int | None = None) -> None:
        """Args: modulo, of every total."""
        self._modulo = modulo

    def canonical(self, answer: str, fields: Fields) -> str | None:
        """The total without leading zeros."""
        return str(int(answer)) if answer.strip().isdigit() else None

    def check_step(self, thoughts: Sequence[str], fields: Fields) -> bool | None:
        """Whether the last line is the one that belongs there.

        >>> Sums().check_step(["7+6=13\\n", "13+8=21\\n"], {"problem": "7+6+8+3"})
        True
        """
        numbers = [int(n) for n in fields["problem"].split("+")]
        total = numbers[0]
        line = ""
        for number in numbers[1 : len(thoughts) + 1]:
            new = total + number if self._modulo is None else (total + number) % self._modulo
            line, total = f"{total}+{number}={new}", new
        return len(thoughts) < len(numbers) and thoughts[-1].strip() == line


GRADERS: Registry[Callable[..., Grader]] = Registry("graders", "grader", {"maths": "data_pipelines.thought_trees.mathematics:Maths"})
for _name, _grader in {"text": Text, "label": Label, "number": Number, "game24": Game24, "sums": Sums}.items():
    GRADERS.register(_name)(_grader)


def open_grader(choice: Mapping[str, Any]) -> Grader:
    """The grader that a task file asks for.

    Args:
        choice: `name`, and the grader's options.

    Raises:
        AlignError: there is no such grader, it has no such option, or needs one that is missing.
    """
    options = dict(choice)
    grader = GRADERS.find(str(options.pop("name", "")))
    parameters = inspect.signature(grader).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
        if option not in parameters and not takes_any:
            raise AlignError(f"grader: there is no option '{option}' for this grader: {nearest(str(option), list(parameters))}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name not in options:
            raise AlignError(f"grader: the option '{name}' is missing for this grader")
    return grader(**options)


_OPERATORS: dict[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def arithmetic(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, + − * / and brackets; None if it is none, or divides by zero.

    >>> arithmetic("(10 - 4) * (6 - 2)"), arithmetic("2 ** 9"), arithmetic("1 / 0")
    (Fraction(24, 1), None, None)
    """

    def value(node: ast.AST) -> Fraction:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return Fraction(str(node.value))
        raise ValueError(ast.dump(node))

    try:
        return value(ast.parse(expression.strip(), mode="eval").body)
    except (ValueError, SyntaxError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _fractions(texts: Sequence[str]) -> list[Fraction] | None:
    try:
        return [Fraction(text) for text in texts]
    except (ValueError, ZeroDivisionError):
        return None
