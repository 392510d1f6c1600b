"""Records in the forms in which the hub's data sets give them: same columns, same types, same kinds of content. Written for tests."""

from __future__ import annotations

from typing import Any

from datasets import Features, List, Value

Rows = dict[str, list[dict[str, Any]]]  # by split
TEXT, INT, FLOAT = Value("string"), Value("int64"), Value("float64")
TURNS = List({"content": TEXT, "role": TEXT})

ASKED = [
    ("How do bees make honey?", "Bees collect nectar, carry it home and fan it with their wings until it is thick.", "They just do."),
    ("Name three rivers of Europe.", "1. Danube\n2. Rhine\n3. Volga", "The Nile, the Amazon and the Danube are rivers of Europe."),
    ("Write a haiku about rain.", "Grey drops on the roof,\nthe street hums a quiet song,\na dog shakes its coat.", "Rain rain rain."),
    ("What is the boiling point of water?", "At sea level water boils at 100 °C (212 °F).", "Water boils at 90 degrees, always."),
    ("Translate 'good morning' into French.", "Bonjour.", "Buenos días is the French for good morning, I believe."),
    ("Why is the sky blue?", "Air scatters blue light more than red light, so it reaches us from everywhere.", "Because the sea is blue."),
    (
        "Summarise the plot of Hamlet in one sentence.",
        "A prince avenges his father, and nearly everyone dies.",
        "It is a play by Shakespeare.",
    ),
    ("Give me a tip for sleeping better.", "Go to bed at the same time every day, and keep the room dark.", "Drink coffee before bed."),
    ("What does HTTP stand for?", "HTTP stands for *Hypertext Transfer Protocol*.", "High Tech Transfer Process, as far as I know it."),
    ("Is a tomato a fruit?", "Botanically yes: it holds the seeds. In the kitchen it counts as a vegetable.", "No, it is red."),
    (
        "Explain recursion to a child.",
        "Imagine a box with a smaller box in it, and so on.\n\n```python\ndef f(n):\n    return n and f(n - 1)\n```",
        "See recursion.",
    ),
    ("How many legs has a spider?", "A spider has eight legs.", "A spider has six legs, like every other insect in the world."),
]


def ultrafeedback() -> tuple[Features, Rows]:
    """HuggingFaceH4/ultrafeedback_binarized: conversations; one record whose two responses are the same, and one prompt twice."""

    def record(number: int, asked: str, chosen: str, rejected: str) -> dict[str, Any]:
        def turns(answer: str) -> list[dict[str, str]]:
            return [{"content": asked, "role": "user"}, {"content": answer, "role": "assistant"}]

        return {
            "prompt": asked, "prompt_id": f"{number:064x}", "chosen": turns(chosen), "rejected": turns(rejected), "messages": turns(chosen),
            "score_chosen": 8.5, "score_rejected": 3.0 + number % 3,
        }  # fmt: skip

    several = [(f"{lead}{asked}", chosen, rejected) for lead in ("", "Please tell me. ") for asked, chosen, rejected in ASKED]
    train = [record(number, *one) for number, one in enumerate(several)]
    train += [record(90, "Say hello.", "Hello!", "Hello!"), record(91, *ASKED[0][:2], "I do not know how they do it.")]
    test = [record(100 + number, f"In short: {asked}", *answers) for number, (asked, *answers) in enumerate(ASKED)]
    features = {"prompt": TEXT, "prompt_id": TEXT, "chosen": TURNS, "rejected": TURNS, "messages": TURNS}
    return Features({**features, "score_chosen": FLOAT, "score_rejected": FLOAT}), {"train_prefs": train, "test_prefs": test}


def gsm8k() -> tuple[Features, Rows]:
    """openai/gsm8k, subset main: worked answers with calculator marks, the result behind four hashes."""

    def record(count: int, price: int) -> dict[str, str]:
        question = f"Nina buys {count} pens at ${price} each and pays with a $1,000 note. How much does she get back?"
        total = count * price
        answer = f"The pens cost {count} * {price} = $<<{count}*{price}={total}>>{total}.\nShe gets back 1000 - {total} = {1000 - total}."
        return {"question": question, "answer": f"{answer}\n#### {1000 - total:,}"}

    rows = [record(count, price) for count in (3, 5, 8, 12) for price in (2, 4, 7)]
    return Features({"question": TEXT, "answer": TEXT}), {"train": rows[:8], "test": rows[8:]}


def two_wiki() -> tuple[Features, Rows]:
    """framolfese/2WikiMultihopQA: HotpotQA's layout, contexts and facts as columns of lists."""
    asked = [
        ("Who is the mother of the director of the film Polish-Russian War?", "Małgorzata Braunek", "compositional"),
        ("Which film came out first, Blind Shaft or The Mask Of Fu Manchu?", "The Mask Of Fu Manchu", "comparison"),
        ("Are both towns, Kurram Garhi and Trojkrsti, in the same country?", "no", "comparison"),
        ("When did the founder of Versus die?", "15 July 1997", "compositional"),
        ("Who is the paternal grandfather of Przemysław Potocki?", "Stanisław Potocki", "inference"),
    ]
    context = {
        "title": ["Blind Shaft", "Versus"],
        "sentences": [["Blind Shaft is a film of 2003."], ["Versus is a label.", "It is Italian."]],
    }
    rows = [
        {"id": f"{n:032x}", "question": q, "answer": a, "type": kind, "supporting_facts": {"title": ["Versus"], "sent_id": [0]}, "context": context}
        for n, (q, a, kind) in enumerate(asked)
    ]  # fmt: skip
    features = {
        "id": TEXT, "question": TEXT, "answer": TEXT, "type": TEXT, "supporting_facts": {"title": List(TEXT), "sent_id": List(INT)},
        "context": {"title": List(TEXT), "sentences": List(List(TEXT))},
    }  # fmt: skip
    return Features(features), {"train": rows, "validation": rows[:2]}


def bamboogle() -> tuple[Features, Rows]:
    """chiayewken/bamboogle: `Question` and `Answer`, a test split alone."""
    asked = [
        ("Who was president of the United States in the year that Citibank was founded?", "james madison"),
        ("What rocket was the first spacecraft that ever approached Uranus launched on?", "Titan IIIE"),
        ("In what year was the company that was founded as Sound of Music added to the S&P 500?", "1999"),
        ("Who was the first African American mayor of the most populous city in the United States?", "David Dinkins"),
    ]
    return Features({"Question": TEXT, "Answer": TEXT}), {"test": [{"Question": q, "Answer": a} for q, a in asked]}


def fever() -> tuple[Features, Rows]:
    """copenlu/fever_gold_evidence: a record a claim and evidence, so claims come several times; evidence as triples of texts."""
    claims = [
        ("The Rhône flows through Geneva.", "SUPPORTS"), ("Telemundo is an English-language network.", "REFUTES"),
        ("Grease had bad reviews.", "REFUTES"), ("Puerto Rico is not an unincorporated territory of the United States.", "REFUTES"),
        ("Stranger Things is set in Bloomington, Indiana.", "NOT ENOUGH INFO"), ("Damon Albarn's first album came out in 2011.", "REFUTES"),
        ("There is a movie called The Hunger Games.", "SUPPORTS"), ("Ryan Gosling has been to a country in Africa.", "SUPPORTS"),
    ]  # fmt: skip

    def record(number: int, claim: str, label: str, sentence: int) -> dict[str, Any]:
        evidence = [[claim.split()[0], str(sentence), f"Sentence {sentence} of the page on {claim.split()[0]} ."]]
        verifiable = "NOT VERIFIABLE" if label == "NOT ENOUGH INFO" else "VERIFIABLE"
        return {
            "claim": claim, "evidence": evidence, "id": str(number), "label": label, "verifiable": verifiable, "original_id": str(number)
        }  # fmt: skip

    rows = [record(number, *claim, sentence) for number, claim in enumerate(claims) for sentence in (0, 3)]
    features = {"claim": TEXT, "evidence": List(List(TEXT)), "id": TEXT, "label": TEXT, "verifiable": TEXT, "original_id": TEXT}
    return Features(features), {"train": rows[:10], "validation": rows[:2], "test": rows[10:]}


PROGRAMS = [
    ("Write a function to add two numbers.", "def add(a, b):\r\n    return a + b", ["add(1, 2) == 3", "add(-1, 1) == 0", "add(0.5, 0.25) == 0.75"]),
    ("Write a python function to reverse a string.", "def rev(s):\r\n\treturn s[::-1]", ["rev('abc') == 'cba'", "rev('') == ''", "rev('aa') == 'aa'"]),
    ("Write a function to find the largest of a list.", "def big(xs):\r\n    return max(xs)", ["big([1, 3, 2]) == 3", "big([0]) == 0", "big([-1, -5]) == -1"]),
    ("Write a function to count the vowels of a text.", "def vowels(text):\r\n    return sum(c in 'aeiou' for c in text)", ["vowels('tree') == 2", "vowels('') == 0", "vowels('xyz') == 0"]),
    ("Write a function to find the area of a circle.", "import math\r\ndef area(r):\r\n    return math.pi * r ** 2", ["area(0) == 0", "math.isclose(area(1), 3.14159, rel_tol=0.001)", "area(2) > 12"]),
    ("Write a function to remove duplicates from a tuple.", "def unique(t):\r\n    return set(t)", ["set(unique((1, 1, 2))) == {1, 2}", "unique(()) == set()", "len(unique((3, 3))) == 1"]),
    ("Write a function to join words.", "def join(words):\r\n    return ' '.join(words)", ["join(['a', 'b']) == 'a b'", "join([]) == ''", "join(['x']) == 'x'"]),
    ("Write a function to test whether a number is even.", "def even(n):\r\n    return n % 2 == 0", ["even(2) == True", "even(3) == False", "even(0) == True"]),
]  # fmt: skip


def _mbpp(full: bool) -> tuple[Features, Rows]:
    def record(number: int, text: str, code: str, tests: list[str]) -> dict[str, Any]:
        asserted = [f"assert {test}" for test in tests]
        setup = "import math" if "math" in code else ""
        if full:
            return {
                "task_id": number, "text": text, "code": code, "test_list": asserted, "test_setup_code": setup, "challenge_test_list": [],
            }  # fmt: skip
        imports = [setup] if setup else []
        return {
            "source_file": "Benchmark Questions Verification V2.ipynb", "task_id": number, "prompt": text, "code": code.replace("\r\n", "\n"),
            "test_imports": imports, "test_list": asserted,
        }  # fmt: skip

    rows = [record(number, *program) for number, program in enumerate(PROGRAMS, 601)]
    other = [record(11, "Write a function to double a number.", "def double(n):\r\n    return 2 * n", ["double(2) == 4"])]
    names = ("text", "code", "test_setup_code") if full else ("source_file", "prompt", "code")
    lists = ("test_list", "challenge_test_list") if full else ("test_imports", "test_list")
    features = {"task_id": Value("int32"), **dict.fromkeys(names, TEXT), **dict.fromkeys(lists, List(TEXT))}
    return Features(features), {"train": rows, "test": other, "validation": other, "prompt": other}


def mbpp_full() -> tuple[Features, Rows]:
    """google-research-datasets/mbpp, subset full."""
    return _mbpp(True)


def mbpp_sanitized() -> tuple[Features, Rows]:
    """google-research-datasets/mbpp, subset sanitized: other columns."""
    return _mbpp(False)


def humaneval() -> tuple[Features, Rows]:
    """openai/openai_humaneval."""

    def record(number: int, name: str, arguments: str, doc: str, body: str, cases: list[str]) -> dict[str, str]:
        checks = "".join(f"    assert candidate({case}\n" for case in cases)
        prompt = f'from typing import List\n\n\ndef {name}({arguments}):\n    """ {doc}\n    """\n'
        test = f"\n\nMETADATA = {{\n    'author': 'jt',\n    'dataset': 'test'\n}}\n\n\ndef check(candidate):\n{checks}\n"
        return {"task_id": f"HumanEval/{number}", "prompt": prompt, "canonical_solution": body, "test": test, "entry_point": name}

    rows = [
        record(0, "has_close", "numbers: List[float], threshold: float", "Whether two are closer than the threshold.",
               "    return any(abs(a - b) < threshold for i, a in enumerate(numbers) for b in numbers[:i])\n",
               ["[1.0, 2.0], 0.5) == False", "[1.0, 1.2], 0.5) == True"]),
        record(1, "total", "numbers: List[int]", "The sum.", "    return sum(numbers)\n", ["[1, 2]) == 3", "[]) == 0"]),
        record(2, "shout", "text: str", "In capitals.", "    return text.upper()\n", ["'a') == 'A'"]),
    ]  # fmt: skip
    return Features(dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), TEXT)), {"test": rows}


DATA_SETS = {
    ("HuggingFaceH4/ultrafeedback_binarized", "default"): ultrafeedback, ("openai/gsm8k", "main"): gsm8k,
    ("framolfese/2WikiMultihopQA", "default"): two_wiki, ("chiayewken/bamboogle", "default"): bamboogle,
    ("copenlu/fever_gold_evidence", "default"): fever, ("google-research-datasets/mbpp", "full"): mbpp_full,
    ("google-research-datasets/mbpp", "sanitized"): mbpp_sanitized, ("openai/openai_humaneval", "openai_humaneval"): humaneval,
}  # fmt: skip
"""(name on the hub, subset) → features and rows."""
