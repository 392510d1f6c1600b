"""The answers of chat models, in the shapes in which they write them, and in shapes that state none."""

import json
import time

import pytest

from data_pipelines.thought_trees.chat.reading import AnswerKind, read_answer
from data_pipelines.thought_trees.graders import GRADERS

WORK = "She bakes 6 * 12 = 72 rolls and sells 58 of them.\n\n"
THINKING = "<think>\nIs the answer 99? 100 - 1 = 99. The answer is 99.\n</think>\n\n"

NUMBERS = [
    # said to be the answer
    ("The answer is 14.", "14"),
    ("the answer is 14", "14"),
    (WORK + "The answer is 14.", "14"),
    (WORK + "So, the answer is 14 rolls.", "14"),
    (WORK + "Therefore, the final answer is: 14", "14"),
    (WORK + "The final answer is **14**.", "14"),
    (WORK + "**The final answer is: 14.**", "14"),
    (WORK + "**The final answer is:** 14", "14"),
    (WORK + "The answer to the question of how many rolls are left is 14.", "14"),
    (WORK + "Thus the correct answer would be $14.", "$14"),
    (WORK + "My answer is therefore 14 rolls, since 72 - 58 = 14.", "14"),
    (WORK + "The answer is 14 rolls for 3 children.", "14"),
    (WORK + "The answer is 72 - 58 = 14.", "14"),
    (WORK + "The answer is $72 - 58 = \\boxed{14}$.", "14"),
    (WORK + "The answer is 14, not 12.", "14"),
    (WORK + "The answer is not 12 but 14.", "14"),
    (WORK + "The answer is 14 (72 minus 58).", "14"),
    (WORK + "The answer is 1,250.", "1250"),
    (WORK + "The answer is $1,250.50.", "$1250.50"),
    (WORK + "The answer is \\$1{,}250.", "$1250"),
    (WORK + "The answer is -5.", "-5"),
    (WORK + "The answer is −5 degrees.", "-5"),
    (WORK + "The answer is 3/4 of a cake.", "3/4"),
    (WORK + "The answer is $\\frac{3}{4}$.", "3/4"),
    (WORK + "The answer is $14$.", "14"),
    (WORK + "The answer is \\(14\\).", "14"),
    (WORK + "The answer is 50%.", "50%"),
    (WORK + "The answer is 2.5 million.", "2.5 million"),
    (WORK + "The answer is fourteen.", "14"),
    (WORK + "The answer is 14.0 kg", "14.0"),
    (WORK + "The answer: 14", "14"),
    (WORK + "The final answer is:\n\n14", "14"),
    (WORK + "The final answer is:\n\\[\n14\n\\]", "14"),
    (WORK + "The answer is 12. Wait, 72 - 58 is 14. The answer is 14.", "14"),
    (WORK + "I think the answer is 14.", "14"),
    (WORK + "Since it is not a leap year, the answer is 14.", "14"),
    (WORK + "If we subtract them, the answer is 14.", "14"),
    # labels and headings
    (WORK + "Answer: 14", "14"),
    (WORK + "Answer: 14 rolls", "14"),
    (WORK + "**Answer:** 14", "14"),
    (WORK + "**Answer**: 14 rolls", "14"),
    (WORK + "**Answer: 14**", "14"),
    (WORK + "### Answer: 14", "14"),
    (WORK + "Final Answer: 14.", "14"),
    (WORK + "**Final Answer**\n14", "14"),
    (WORK + "## Final Answer\n\n**14** rolls are left.", "14"),
    (WORK + "✅ **Final Answer: 14**", "14"),
    (WORK + "A: 14", "14"),
    (WORK + "Final answer → 14", "14"),
    (WORK + "**Final Answer:**\n\n$$\n\\boxed{14}\n$$", "14"),
    ("Answer: 14\n\nExplanation: 72 rolls are baked, and 58 are sold.", "14"),
    (WORK + '{"reasoning": "72 - 58", "answer": 14}', "14"),
    (WORK + "<answer>14</answer>", "14"),
    # marks of data sets
    (WORK + "#### 14", "14"),
    (WORK + "####14", "14"),
    (WORK + "#### $14", "$14"),
    (WORK + "\\boxed{14}", "14"),
    (WORK + "$\\boxed{14}$", "14"),
    (WORK + "\\[ \\boxed{14 \\text{ rolls}} \\]", "14"),
    (WORK + "\\[\\boxed{\\$1,250}\\]", "$1250"),
    ("First \\boxed{72} are baked. In the end \\boxed{14} are left.", "14"),
    ("#### Step 1\n6 * 12 = 72\n\n#### Step 2\n72 - 58 = 14\n\nThe answer is 14.", "14"),
    # conclusions
    ("14", "14"),
    ("**14**", "14"),
    ("$14", "$14"),
    ("14 rolls.", "14"),
    ("14 rolls are left.", "14"),
    (WORK + "**14**", "14"),
    (WORK + "14", "14"),
    (WORK + "She has **14** rolls left.", "14"),
    (WORK + "So she has 14 rolls left.", "14"),
    (WORK + "Therefore, there are 14 rolls left.", "14"),
    (WORK + "72 - 58 = 14", "14"),
    (WORK + "Thus 72 - 58 = 14 rolls are left.", "14"),
    (WORK + "72 - 58 = 14.\n\nThere are 14 rolls left.", "14"),
    (WORK + "72 - 58 = 14. So after 2 days she has 14 rolls left.", "14"),
    (WORK + "So she has 14 rolls left.\n\nI hope this helps! Let me know if you have 1 more question.", "14"),
    (WORK + "The total number of rolls left is 14.", "14"),
    ("Natalia sold 72 clips.", "72"),
    ("Rolls left = 14", "14"),
    # thinking is no answer
    (THINKING + "The answer is 14.", "14"),
    (THINKING + "**14**", "14"),
    ("100 - 1 = 99. The answer is 99.</think>The answer is 14.", "14"),
    # fractions, signs, exponents, words
    ("The answer is 1/4.", "1/4"),
    ("The answer is 2½ hours.", "2 1/2"),
    ("The answer is \\boxed{3\\frac{1}{2}}.", "3 1/2"),
    ("The answer is \\frac52.", "5/2"),
    ("The answer is negative 14.", "-14"),
    ("The answer is minus $14.", "-$14"),
    ("The answer is 72 minus 58 = 14.", "14"),
    ("The answer is 1e3.", "1e3"),
    ("The answer is twenty-five.", "25"),
    ("The answer is one hundred and five rolls.", "105"),
    ("The answer is two thousand five hundred.", "2500"),
    ("The answer is two dozen.", "24"),
    ("The answer is a hundred.", "100"),
    ("The answer is _14_.", "14"),
    ("```\n14\n```", "14"),
    ("The answer is ```14```.", "14"),
    (WORK + "The answer is not 12, it's 14.", "14"),
    (WORK + "The answer is \\boxed 14.", "14"),
    (WORK + "\\boxed{12}. Wait, 72 - 58 is 14. \\boxed{14}", "14"),
    # the last result, in a last sentence with other numbers, in the last step of a list, with GSM8K's calculations
    (WORK + "72 - 58 = 14.\n\nKylar needs to pay **$14** for the 16 glasses.", "$14"),
    (WORK + "72 - 58 = 14.\n\nKylar needs to pay $14 for the 16 glasses.", "14"),
    (WORK + "72 - 58 = 14.\n\nThus Kylar needs to pay $14 for 16 glasses.", "14"),
    ("Step 1: 6 * 12 = 72.\nStep 2: 72 - 58 = 14 rolls in total.", "14"),
    ("2 * 36 = <<2*36=72>>72 rolls.\nA share is 72 / 5 = <<72/5=14.4>>14.4 rolls.", "14.4"),
]  # fmt: skip

UNREADABLE = [
    "",
    "I do not know.",
    "The answer is not 12.",
    "The answer isn't 12.",
    "The answer is certainly not 12.",
    "The answer cannot be 12.",
    "I don't think the answer is 12.",
    "One might think the answer is 12, but it is larger.",
    "The answer is 12 is what many people say, which is wrong.",
    "If the answer is 12, then she has sold 60.",
    "Is the answer 12?",
    "Could it be that the answer is 12?",
    "The answer 12 would be wrong.",
    "The answer is 12 or 14.",
    "The answers are 12, 14.",
    "The answer is 12, 13 or 14.",
    "The answer is 11 hours, 2 minutes.",
    "The answer is between 12 and 14.",
    "The answer is either 12 or 14.",
    "The answer depends on whether 12 or 14 are sold.",
    "The answer is unknown.",
    "It could be 12 or 14, I am not sure.",
    "I'm sorry, I cannot solve problem 12.",
    "There are 12 apples and 3 pears. It is not clear how many are eaten.",
    "We are not told how many of the 12 are sold.",
    "Let's solve it step by step. Step 1: There are 12 rolls in each of the 6 trays.",
    "So the answer is not 12.",
    "She has 12 rolls, then bakes 6 more, and sells some.",
    "The final answer is: ...",
    "Answer:",
    "#### Step 1: Count the 12 rolls",
    "<think>The answer is 12.",
    "The answer is <think>12",
    "Would you like me to explain step 2?",
    "What is 6 * 12?",
    "12 + 2",
    "1. Subtract 12",
    "Let me know if you need 12 more examples!",
    "Therefore, she cannot have 12 rolls.",
    "The student's answer is 12, but that is wrong.",
    "The answer is x + 14.",
    "The answer is 2x.",
    "The answer is 3 * 14.",
    "The answer is 5k.",
    "The answer is 3:4.",
    "The answer is $1.5\\times10^3$.",
    "The answer is 2 hours 30 minutes.",
    "The answer is two and a half.",
    "The answer is one third.",
    "The answer is one of them.",
    "The answer is five six.",
    "\\boxed{12}, \\boxed{14}",
    "So she needs to subtract 12.",
]

WORDS = [
    ("The Louvre stands in Paris.\nSo the final answer is: the Seine.", "the Seine"),
    ("The answer is **the Seine**, which flows through Paris.", "the Seine"),
    ("Final answer: Washington, D.C.", "Washington, D.C"),
    ("The answer is George W. Bush.", "George W. Bush"),
    ("**Answer:** St. Louis", "St. Louis"),
    ("The Louvre stands in Paris. The river is **the Seine**.", "the Seine"),
    ("The Seine", "The Seine"),
    ('The final answer is "no".', "no"),
    ("The answer is The Man Who Knew Too Much.", "The Man Who Knew Too Much"),
    ("The answer is Dr. Who", "Dr. Who"),
    ("The answer is the Seine, not the Thames.", "the Seine"),
    ("The answer is not the Thames but the Seine.", "the Seine"),
    ("The answer is not the Thames.", None),
    ("I am not sure which river it is.", None),
    ("The Louvre stands in Paris, and many rivers flow there to the sea in the end.", None),
]

FORMULAS = [
    ("We get $x = 2$ or $x = 3$, so the sum is $\\boxed{5}$.", "5"),
    ("Thus \\[\\boxed{\\frac{1}{2}}\\]", "\\frac{1}{2}"),
    ("**Final Answer**\nThe final answer is $\\boxed{[-2, 4]}$", "[-2, 4]"),
    ("The answer is $2\\sqrt{10}$.", "2\\sqrt{10}"),
    ("Answer: $(x+1)^2$", "(x+1)^2"),
    ("It factors. Therefore $x = 5$.", "x = 5"),
    ("We get \\boxed{\\text{east}}.", "\\text{east}"),
    ("So the answers are $\\boxed{1}$ and $\\boxed{2}$.", "1, 2"),
    ("The answer is $\\sqrt{2}$ or about 1.414.", "\\sqrt{2}"),
    ("The answer is $x^2$, where $x$ is whole.", "x^2"),
    ("Answer: $\\frac{5}{6}$ of the cake", "\\frac{5}{6}"),
    ("It may be $\\frac{1}{2}$.", None),
    ("The answer is not $\\frac{1}{2}$.", None),
    ("\\boxed{\\frac{1}{2}", None),
]  # fmt: skip

LABELS = [
    ("The reef lies off Australia. The final answer is: REFUTES.", "REFUTES"),
    ("**Answer: SUPPORTS**", "SUPPORTS"),
    ("She won both prizes, so the claim is supported.", "SUPPORTS"),
    ("NOT ENOUGH INFO", "NOT ENOUGH INFO"),
    ("Answer: REFUTES, since nothing supports it.", "REFUTES"),
    ("The answer is NOT ENOUGH INFO.", "NOT ENOUGH INFO"),
    ("Nothing is known of his horse.\n\n**Not enough info**", "NOT ENOUGH INFO"),
    ("The final answer is: SUPPORTS, not REFUTES.", "SUPPORTS"),
    ("The answer is not SUPPORTS.", None),
    ("It could be SUPPORTS or REFUTES.", None),
    ("I cannot say.", None),
]


def cases(listed):
    return pytest.mark.parametrize(("response", "answer"), listed, ids=[text[-40:] or "empty" for text, _ in listed])


@cases(NUMBERS)
def test_numbers_in_the_shapes_of_chat_models(response, answer):
    assert read_answer(response, AnswerKind.NUMBER) == answer
    assert GRADERS.find("number")().is_right(answer, (answer.strip("$%"),), {})


@cases([(text, None) for text in UNREADABLE])
def test_what_states_no_number_is_not_read(response, answer):
    assert read_answer(response, AnswerKind.NUMBER) is None


@cases(WORDS)
def test_answers_in_words(response, answer):
    assert read_answer(response, AnswerKind.WORDS) == answer


@cases(FORMULAS)
def test_formulas(response, answer):
    assert read_answer(response, AnswerKind.MATHS) == answer


@cases(LABELS)
def test_labels(response, answer):
    grader = GRADERS.find("label")(labels={"SUPPORTS": ["supported"], "REFUTES": ["refuted"], "NOT ENOUGH INFO": []})
    stated = read_answer(response, AnswerKind.LABEL, labels=("not enough info",))
    assert (None if stated is None else grader.canonical(stated, {})) == answer


def test_an_expression():
    assert read_answer("Answer: $(6 - 4) \\times (4 + 8) = 24$", AnswerKind.EXPRESSION) == "(6 - 4) * (4 + 8) = 24"


def test_a_price_keeps_its_magnitude():
    stated = read_answer("The answer is $3.5M.", AnswerKind.NUMBER)
    assert GRADERS.find("number")().is_right(stated, ("3500000",), {})


@pytest.mark.parametrize(
    "repeated", ["(", "1,", "{", "\\boxed{", "\\boxed{5} ", "the answer is ", "14 is the answer ", "one hundred ", "-"]
)
def test_a_model_that_repeats_itself_is_read_in_a_bounded_time(repeated):
    started = time.process_time()
    read_answer((repeated * 5000)[:5000], AnswerKind.NUMBER)
    assert time.process_time() - started < 5


def test_a_response_that_was_cut_has_no_conclusion_and_no_torn_number():
    for torn in (
        WORK + "So she has 14 rolls",
        WORK + "**14**",
        WORK + "The answer is 1",
        WORK + "So 72 - 58 = 1",
        "The answer is 2.5% of 3.5% of 4",
    ):
        assert read_answer(torn, AnswerKind.NUMBER, "length") is None
    assert read_answer("The answer is 14.\n\nTo check this, we add 14 and 5", AnswerKind.NUMBER, "length") == "14"


@pytest.mark.slow
def test_answers_read_from_whole_solutions_agree_with_2400_human_labels(shared_data):
    """Solutions that four models wrote, each with its answer behind "A:" at its end."""
    grader, disagreed, unread, total = GRADERS.find("number")(), [], 0, 0
    for line in (shared_data / "gsm8k" / "model-solutions-first600.jsonl").read_text().splitlines():
        record = json.loads(line)
        gold = record["ground_truth"].rpartition("A:")[2]
        for solution in (value for value in record.values() if isinstance(value, dict)):
            stated = read_answer(solution["solution"], AnswerKind.NUMBER)
            unread += stated is None
            total += 1
            if grader.is_right(stated, (gold,), {}) != solution["is_correct"]:
                disagreed.append((solution["solution"][-120:], stated, gold, solution["is_correct"]))
    assert (total, disagreed) == (2400, [])
    assert unread < 24
