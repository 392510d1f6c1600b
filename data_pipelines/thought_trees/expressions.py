"""Is a text an expression, and how is it written in LaTeX? What is typed without LaTeX becomes LaTeX, as math-verify reads it."""

from __future__ import annotations

import re
from itertools import pairwise

AND = re.compile(r",?\s+(?:and|or)\s+|\s*;\s*", re.IGNORECASE)
FUNCTIONS = (
    "arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh", "coth", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "lg",
    "exp", "sqrt", "gcd", "lcm", "max", "min", "det", "deg", "dim",
)  # fmt: skip
_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi", "rho",
    "sigma", "tau", "phi", "chi", "psi", "omega", "infty",
)  # fmt: skip
_COMMAND = re.compile(r"\\[A-Za-z]+\*?(?:\{(?:[bpvBV]?matrix|array|cases|aligned?)\}(?:\{[clr|]*\})?)?")
WORD = re.compile(r"[A-Za-z]{2,}")
_SHORT_WORDS = (
    "no", "on", "up", "us", "in", "is", "it", "at", "am", "pm", "or", "of", "so", "to", "do", "go", "he", "me", "my", "we", "by", "an",
    "as", "be", "if",
)  # fmt: skip
_JUXTAPOSED = re.compile(r"\d\s+\.?\d")
_PLAIN_TO_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\*)\*\*(?!\*)", "^"),
        (r"\ball real numbers\b|\breal numbers\b|\ball reals\b", r"\\mathbb{R}"),
        (r"(?<![A-Za-z\\])(?:-\s*)?(?:infinity|inf|oo)(?![A-Za-z])", lambda m: ("-" if m.group().startswith("-") else "") + r"\infty"),
        (rf"(?<![A-Za-z\\])({'|'.join(_GREEK)})(?![A-Za-z])", r"\\\1 "),
        (r"√\s*\(([^()]*)\)|(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", lambda m: rf"\sqrt{{{m.group(1) or m.group(2)}}}"),
        (r"√\s*\{?(\w+)\}?|(?<![A-Za-z\\])sqrt\s*\{?(\w+)\}?", lambda m: rf"\sqrt{{{m.group(1) or m.group(2)}}}"),
        (rf"(?<![A-Za-z\\])({'|'.join(FUNCTIONS)})(?=[\s(^_\d]|\\|[a-zA-Z](?![A-Za-z]))", r"\\\1 "),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"\^\s*([-+]?\d{2,}|-\d|-[a-zA-Z])", r"^{\1}"),
        (r"(?<=[\w)}])\s*\*\s*(?=[\w(\\-])", r" \\cdot "),
    )
]
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def is_maths(text: str) -> bool:
    r"""Whether a text can be an expression: no words, no two numbers side by side, no function without an argument.

    >>> [is_maths(text) for text in ("p - q", "2xy", r"\frac{\pi}{2}", "sin(x)", "Monday", "no", "5 10", "4 sqrt", "10 more than x")]
    [True, True, True, True, False, False, False, False, False]
    """
    latex = as_latex(text)
    bare = _COMMAND.sub(" # ", latex)
    if re.search(r"\\(?:sqrt|sin|cos|tan|log|ln)\s*$|(?<![A-Za-z])sqrt\s*$", latex.strip()) or not re.search(r"[\w\\]", text):
        return False
    bare = re.sub(r"_\s*(?:\{[^{}]*\}|\w)", "_", bare)
    if "&" not in bare and "\\\\" not in bare and _JUXTAPOSED.search(bare):
        return False
    return not any(_is_word(word) for word in WORD.findall(bare))


def _is_word(word: str) -> bool:
    """Whether letters side by side are a word and no product of variables, as "xy" and "abc" are."""
    letters = sorted(word.lower())
    in_a_row = all(ord(after) - ord(before) == 1 for before, after in pairwise(letters))
    return word.lower() in _SHORT_WORDS or (len(word) > 2 and not in_a_row)


def as_latex(text: str) -> str:
    r"""An expression typed without LaTeX, in LaTeX.

    >>> as_latex("2*sqrt(3)"), as_latex("x**2 + pi/3"), as_latex("e^-x"), as_latex("(-oo, 5)"), as_latex("sin(x)")
    ('2 \\cdot \\sqrt{3}', 'x^2 + \\pi /3', 'e^{-x}', '(-\\infty, 5)', '\\sin (x)')
    """
    for pattern, replacement in _PLAIN_TO_LATEX:
        text = pattern.sub(replacement, text)
    text = AND.sub(", ", text)
    if TRIGONOMETRIC.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*°", r"(\1\\cdot\\frac{\\pi}{180})", text)
    return text.replace("°", "")
