"""The grader of mathematics on answers as chat models state them: what is right, what is wrong, and what must not hang."""

import json
import threading
import time

import pytest

from align.errors import AlignError
from data_pipelines.thought_trees import symbolic
from data_pipelines.thought_trees.graders import GRADERS

pytest.importorskip("math_verify", reason="math-verify is not installed")

RIGHT = [  # stated, gold
    # boxes, dollars, emphasis, what stands around
    (r"\boxed{42}", "42"), (r"$\boxed{42}$.", "42"), (r"\[\boxed{\frac{3}{4}}\]", r"\frac{3}{4}"), (r"\(\boxed{7}\)", "7"), ("**18**", "18"),
    ("**$18**", "18"), (r"**\$18.00**.", "18"), ("`42`", "42"), ("__12__", "12"), ("*12*", "12"), ("$12$", "12"), ("$$12$$", "12"),
    (r"\fbox{9}", "9"), (r"\boxed{x = 4}", "4"), (r"\boxed{2} and \boxed{3}", "2, 3"), (r"$x = \boxed{5}$", "5"), ("12.", "12"), ("= 12", "12"),
    (r"\boxed{\mathbf{12}}", "12"), (r"\displaystyle\frac{1}{2}", r"\frac12"), (r"\boxed{\text{(C)}}", "C"), ("approximately 12", "12"),
    # numbers
    ("1,234,567", "1234567"), ("1 234 567", "1234567"), (r"1{,}234", "1234"), (r"1,\!234", "1234"), (r"12\,345", "12345"), ("0.50", "0.5"),
    (".5", "0.5"), ("5.", "5"), ("-0.0", "0"), ("−7", "-7"), ("+7", "7"), ("007", "7"), ("1e3", "1000"), ("1.2E4", "12000"), ("4e-2", "0.04"),
    (r"3 \times 10^{5}", "300000"), ("3 x 10^5", "300000"), ("3*10^5", "300000"), (r"3 \cdot 10^{-2}", "0.03"), ("3×10⁵", "300000"),
    ("seven", "7"), ("twelve", "12"), ("2 1/3", r"\frac{7}{3}"), (r"2\frac{1}{3}", "7/3"), (r"2 \frac13", r"\frac73"), ("-1 1/2", "-3/2"), ("2½", "5/2"),
    ("6/8", "3/4"), (r"\dfrac{6}{8}", "0.75"), (r"\frac{-3}{4}", "-0.75"), (r"-\frac34", r"\frac{-3}{4}"), (r"\frac{3}{-4}", "-3/4"),
    (r"0.\overline{3}", r"\frac{1}{3}"), (r"0.1\overline{6}", "1/6"), ("0.333333333", r"\frac{1}{3}"), ("3.14159265", r"\pi"), ("2 million", "2000000"),
    ("1.5 billion", "1,500,000,000"), ("three dozen", "36"), ("2 hundred", "200"), ("$2M", "2000000"), ("5^3", "125"), ("2**10", "1024"),
    # percent
    ("25%", "0.25"), (r"25\%", "25"), ("0.25", r"25\%"), ("25 percent", "25"), ("25 percent", "1/4"), (r"33\frac{1}{3}\%", r"\frac{1}{3}"), ("12.5%", "1/8"),
    # units and currencies
    ("$1,250.50", "1250.5"), ("£40", "40"), ("¥300", "300"), ("40 euros", "40"), ("USD 40", "40"), ("40 USD", "40"), ("-$5", "-5"), ("$-5", "-5"),
    ("25 cents", "25"), ("7 km/h", "7"), ("60 mph", "60"), ("60 miles per hour", "60 mph"), ("9.8 m/s^2", "9.8"), ("9.8 m/s²", "9.8"), ("12 cm", "12 centimeters"),
    ("12 sq. ft.", "12"), ("12 square feet", "12 ft^2"), (r"24\pi\text{ cm}^3", r"24\pi"), (r"2\sqrt{3} inches", r"2\sqrt{3}"), ("3 cups", "3"),
    ("18 eggs", "18"), ("5 students", "5"), ("3 hours", "3"), ("12 years old", "12"), ("$15 per hour", "15"), ("15 dollars an hour", "$15"), ("72 °F", "72"),
    ("20 degrees Celsius", "20"), (r"45^\circ", "45"), ("45°", "45"), ("45 degrees", r"45^{\circ}"), ("6 feet tall", "6"), ("2 kWh", "2"), (r"5\,\mathrm{m}", "5"),
    ("5 m", "5"), ("8 hrs", "8 hours"), ("10 lbs", "10 pounds"), ("$3.50 each", "3.5"), ("4 liters", "4 L"),
    # equations, names
    ("x = 5", "5"), ("x=5", "x = 5"), ("5", "y=5"), ("The area = 12", "12"), ("f(x) = 2x + 1", "2x+1"), ("y = 2x + 1", "2x + 1"), ("y = 2x + 1", "y = 1 + 2x"),
    ("x = 2 + 3 = 5", "5"), (r"x \in [2, 3]", "[2,3]"), ("A = 20 cm^2", "20"), ("P(x) = x^2", "x^2"), ("2x + y = 3", "y + 2x = 3"),
    # several answers
    ("5 and 6", "5, 6"), ("6, 5", "5,6"), ("x = 2 or x = 3", "2, 3"), ("x = 2 or x = 3", "x=3, x=2"), (r"\pm 5", "5, -5"), ("±5", r"\pm 5"), ("-5 or 5", r"\pm 5"),
    (r"2 \pm \sqrt{3}", r"2+\sqrt{3}, 2-\sqrt{3}"), ("1, 2 and 3", "1,2,3"), ("100, 200, 300", "100,200,300"), (r"1 \pm 2i", "1+2i, 1-2i"), ("5; 6", "5, 6"),
    # sets, intervals, tuples, matrices
    (r"\{1, 2, 3\}", r"\{3, 1, 2\}"), ("{1, 2, 3}", r"\{1,2,3\}"), ("(1, -2)", "(1,-2)"), (r"\left( 1, \frac{1}{2} \right)", "(1, 0.5)"), ("[0, 1)", "[0,1)"),
    ("(-inf, 3]", r"(-\infty, 3]"), ("(-∞, 3]", r"(-\infty,3]"), (r"(-\infty, 0) \cup (0, \infty)", r"(0,\infty) \cup (-\infty,0)"), (r"x \ge 3", r"[3, \infty)"),
    ("x >= 3", r"x \ge 3"), ("3 < x", "x > 3"), (r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"), (r"\emptyset", r"\varnothing"),
    (r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}", r"\begin{pmatrix}0.5\\2\end{pmatrix}"), (r"(r, \theta) = (3, \frac{\pi}{2})", r"\left(3, \frac{\pi}{2}\right)"),
    # expressions
    ("p-q", "p - q"), ("q*p", "pq"), ("2*x + 3", "2x+3"), ("(x+2)(x-2)", "x^2 - 4"), ("x**2 - 4", "(x-2)(x+2)"), (r"\frac{x}{2}", "0.5x"), ("sqrt(8)", r"2\sqrt{2}"),
    ("√8", r"2\sqrt2"), ("2*sqrt(3)/3", r"\frac{2}{\sqrt{3}}"), ("pi/2", r"\frac{\pi}{2}"), ("2π", r"2\pi"), ("e^(2x)", "e^{2x}"), ("x^-2", r"\frac{1}{x^2}"),
    (r"\log_2 8", "3"), ("ln(e)", "1"), ("sin(pi/6)", r"\frac12"), (r"\tan 45^\circ", "1"), ("5!", "120"), (r"\binom{6}{3}", "20"), ("3 + 4i", "4i + 3"),
    (r"\sqrt[3]{27}", "3"), ("n(n+1)/2", r"\frac{n(n+1)}{2}"), ("-(x - 1)", "1 - x"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), ("1/(x+1)", r"\frac{1}{x+1}"),
    (r"a^2+2ab+b^2", "(a+b)^2"), (r"e^{i\theta}", r"e^{\theta i}"), (r"|x-1|", r"\left|x - 1\right|"), ("abc", "cba"),
    # words, choices, times, bases, ratios
    ("Monday", r"\text{Monday}"), ("**Monday**", "monday"), (r"\textbf{(D)}", "D"), ("(b)", "B"), ("B.", "B"), ("C) 12", "C"), ("D. All of the above", "(D)"), ("Option A", "A"),
    ("yes", "Yes"), (r"\text{even}", "even"), ("3:45 PM", "3:45 p.m."), ("15:45", "3:45 PM"), ("3:45", "3:45"), ("12 noon", "12 noon"), ("9 am", "9:00 AM"),
    ("1011_2", "1011_{2}"), ("1A_{16}", "1a_16"), ("2 : 3", "2:3"), ("red and blue", "red and blue"),
    # names, brackets, ordinals, repeating decimals, words
    (r"\angle ABC = 90^\circ", "90"), (r"m\angle A = 30^\circ", r"30^\circ"), (r"\overline{AB} = 5", "5"), ("|AB| = 5", "5"), (r"f^{-1}(x) = \frac{x-1}{2}", r"\frac{x-1}{2}"),
    ("f'(x) = 2x", "2x"), ("f(2) = 7", "7"), ("P(X > 3) = 0.5", "1/2"), (r"\vec{v} = (1,2)", "(1,2)"), ("(1011)_2", "1011_2"), (r"{5 \choose 2}", "10"), (r"\boxed 5", "5"),
    (r"0.\bar{3}", "1/3"), ("0.333...", r"\frac13"), (r"0.1666\ldots", "1/6"), ("0.272727...", "3/11"), ("3.14159...", "3.14159"), (r"3 \colon 4", "3:4"), ("21st", "21"),
    (r"21^{\text{st}}", "21"), ("4th of July", "4th of July"), ("12 (cm)", "12"), ("twenty-one", "21"), ("one hundred and five", "105"), ("a dozen", "12"), ("the East", r"\text{East}"),
    (r"10^{6}", "1 million"), ("3 hours 20 minutes", "3 hours and 20 minutes"), (r"\langle 1, 2 \rangle", r"\langle1,2\rangle"), ("4x - y = 8", "4x-y-8=0"), ("x + y = 2", "2x + 2y = 4"),
]  # fmt: skip
WRONG = [
    # letters and words that are no units
    ("5 x", "5"), ("5 n", "5"), ("5y", "5"), ("5 k", "5"), ("2 pi", "2"), (r"2\pi", "2"), ("3 e", "3"), ("3 i", "3"), ("4 sqrt", "4"), ("10 more than x", "10"),
    ("7 more", "7"), ("5 times x", "5"), ("3 plus y", "3"), ("12 less than y", "12"), ("6 squared", "6"), ("4 or more", "4"), ("5 theta", "5"), ("2 log", "2"),
    ("8 factorial", "8"), ("5 modulo 3", "5"), ("12x", "12"), ("12", "12y"), ("3 mod 7", "3"), ("4 choose 2", "4"),
    # magnitudes
    ("100 million", "100"), ("5 dozen", "5"), ("3 thousand dollars", "3"), ("2 hundred", "2"), ("1.5 billion people", "1.5"), ("$2M", "2"), ("4 trillion", "4"),
    # numbers
    ("5 10", "10"), ("5 10", "5"), ("1 1/2", "1"), ("1 1/2", "1/2"), ("1/3", "0.33"), ("0.3333", "1/3"), (r"\sqrt{2}", "1.41"), (r"\sqrt{2}", "1.4142"), (r"\pi", "3.14"),
    (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"), ("1e-9", "2e-9"), ("10^{-12}", "10^{-13}"), ("2^{-80}", "2^{-81}"), ("0", "1e-9"), (r"3 \times 10^5", r"3 \times 10^6"),
    ("1000000", "1000001"), ("999999.5", "1000000"), ("-5", "5"), ("5", "-5"), ("1.0001", "1"), ("1,000", "1"), ("100,200", "100"), ("3/0", "3"), ("3.14", "3"),
    (r"\frac{1}{10^{20}+1}", r"\frac{1}{10^{20}}"), ("1e400", "2e400"), (r"(\frac{1}{2^{98}}, 1)", r"(\frac{1}{2^{99}}, 1)"),
    # percent
    ("50%", "0.5x"), ("50%", "5"), ("0.5%", "50"), ("5%", "50%"), ("50%", "5000"), ("5", "0.05"),
    # units that differ
    ("5 miles", "5 km"), ("5 cm", "5 m"), ("5 cm^2", "5 cm^3"), ("$5", "€5"), ("30 minutes", "30 hours"), ("20 °C", "20 °F"),
    # several answers
    ("5 and 6", "5"), ("5", "5 and 6"), ("5, 6, 7", "5, 6"), ("5 or 6", "6"), ("5, 5", "5, 6"), ("2021", r"\pm 2021"), (r"\pm 3", "-3"), ("x = 2 or x = 3", "2"),
    ("7 apples and 3 pears", "7"), ("7 apples and 3 pears", "3 apples and 7 pears"), ("x = 2, y = 3", "x = 3, y = 2"),
    # equations
    ("y = 5", "x = 5"), ("x = 5", "6"), ("f(x) = 2x", "2x + 1"), ("D = (0, 1.5)", "D = (0, 1)"), ("2x = 10", "10"), (r"x \ne 5", "5"), ("x > 5", "5"), ("x > 3", "x < 3"),
    # sets, intervals, tuples, matrices
    ("(0,1)", "[0,1]"), ("(0,1]", "[0,1)"), ("(2,1)", "(1,2)"), (r"\{1,2\}", r"\{1,2,3\}"), ("(1,2,3)", "(3,2,1)"), (r"(-\infty, 2)", r"(2, \infty)"),
    (r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\infty", r"-\infty"), (r"\emptyset", "0"), (r"(0, \infty)", r"[0, \infty)"),
    # expressions
    ("p+q", "p - q"), ("x^2 + 1", "x^2 - 1"), ("x^2", "x^3"), ("(x+1)^2", "x^2+1"), ("sqrt(2)", "2"), ("sin(x)", "cos(x)"), ("3 + 4i", "3 - 4i"), ("x", "y"), ("2x", "x^2"),
    (r"\frac{x}{y}", r"\frac{y}{x}"), ("ab", "a+b"), (r"\log 5", "5"), ("e^x", "e^{-x}"), ("5!", "5"), ("a - b", "b - a"),
    # words, choices, times, bases
    ("Tuesday", "Monday"), ("East", "Seat"), ("no", "on"), ("yes", "no"), ("A", "B"), ("(A)", "(B)"), ("A. 12", "B"), ("A dog", "A"), ("5:30 AM", "5:30 PM"), ("5:30", "5:31"),
    ("17:30", "5:30 AM"), ("101_2", "101_3"), ("101_2", "101"), ("10", "10_5"), ("none", "0"), ("", "0"), ("no idea", "4"), ("?", "4"), ("$", "0"), ("2:3", "3:2"), ("even", "odd"),
    # names, brackets, ordinals, repeating decimals, words
    ("|x| = 5", "5"), ("x(x+1) = 6", "6"), (r"\sqrt{x} = 5", "5"), (r"\sin x = 1", "1"), ("log(x) = 2", "2"), ("x^{-1} = 5", "5"), ("21st", "22"), ("0.333...", "0.333"),
    ("(1,2)", r"\{1,2\}"), (r"\{1,2\}", "(1,2)"), (r"\langle 1, 2 \rangle", r"\langle 2,1 \rangle"), ("twenty-one", "20"), ("two and a half", "2"), ("one third", "1"),
    ("one hundred", "1"), ("five six", "11"), ("4x - y = 8", "4x - y = 9"), ("4x - y = 8", "y - 4x = 8"), ("(1011)_2", "1011_3"), ("the West", "East"), ("12 (cm)", "12 (m)"),
    ("the answer", "12"), ("\\", "1"), ("{", "1"), ("\\boxed{", "1"), (r"\boxed{}", "1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def maths():
    return GRADERS.find("maths")()


@pytest.mark.parametrize(("stated", "gold"), RIGHT)
def test_right_answers_are_right(stated, gold, maths):
    assert maths.is_right(stated, (gold,), {})


@pytest.mark.parametrize(("stated", "gold"), WRONG)
def test_wrong_answers_are_wrong(stated, gold, maths):
    assert not maths.is_right(stated, (gold,), {})


@pytest.mark.parametrize("answer", dict.fromkeys(answer for pair in RIGHT for answer in pair))
def test_every_answer_equals_itself_and_itself_in_a_box(answer, maths):
    assert maths.is_right(answer, (answer,), {})
    if "boxed" not in answer and "fbox" not in answer:
        assert maths.is_right(rf"The answer is $\boxed{{{answer.replace('$', '')}}}$.", (answer.replace("$", ""),), {})


HOSTILE = [
    "9^9^9^9", "9**9**9**9", "9^{9^{9^{9}}}", "{" * 10_000 + "5" + "}" * 10_000, "(" * 900 + "6" + ")" * 900, "\\boxed{" * 10_000 + "6", "(10^9)!",
    "6" * 100_000, "6," * 5000, "$" * 1999, "**" * 999, "a " * 900, r"\frac{1}{" * 300 + "2" + "}" * 300, ", ".join(f"9^9^9^{i}" for i in range(9)),
]  # fmt: skip


@pytest.mark.slow
def test_a_hostile_answer_is_wrong_and_takes_a_bounded_time(maths):
    for answer in HOSTILE:
        started = time.process_time(), time.monotonic()
        assert not maths.is_right(answer, ("5",), {}), answer[:60]
        assert time.process_time() - started[0] < 5, f"{answer[:60]}: this program itself must not compute it"
        assert time.monotonic() - started[1] < 120, answer[:60]
    assert maths.is_right("(x+1)^2", ("x^2+2x+1",), {}), "the next question is answered"


def test_it_answers_in_any_thread(maths):
    verdicts = []
    threads = [
        threading.Thread(target=lambda i=i: verdicts.append(maths.is_right(f"(x+{i})^2", (f"x^2 + {2 * i}x + {i * i}",), {})))
        for i in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 8


def test_without_math_verify_numbers_and_words_are_graded_and_the_rest_says_what_is_missing(maths, monkeypatch):
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    assert maths.is_right("12 cm", ("12",), {})
    assert not maths.is_right("Tuesday", ("Monday",), {})
    with pytest.raises(AlignError, match=r"needs math-verify for this answer: pip install 'align-preferences\[eval\]'"):
        maths.is_right("(y+7)^2", ("y^2 + 14y + 49",), {})


def test_equal_answers_have_one_canonical_form_so_that_searches_can_count_them(maths):
    for stated, gold in [
        ("0.5", r"\frac12"),
        ("x = 5", "5"),
        ("(x+1)^2", "x^2 + 2x + 1"),
        (r"\text{East}", "east"),
        ("(A)", "A"),
        ("12 cm", "12"),
        ("p - q", "-q+p"),
    ]:
        assert maths.canonical(stated, {}) == maths.canonical(gold, {}) is not None


def test_the_shared_cases_come_out(maths, shared_data):
    cases = [json.loads(line) for line in (shared_data.parent / "cases" / "maths.jsonl").read_text().splitlines()]
    assert [case for case in cases if maths.is_right(case["stated"], (case["gold"],), {}) != case["right"]] == []
    assert len(cases) == 56
