"""Files of a user's own data in ten forms, each with the same forty questions, and what `align init` says of each."""

import gzip
import json

ROWS = [
    (f"How many apples are left of {n}?", f"There are {n - 3} apples left, because {n} - 3 = {n - 3}.", "It is five, of course.")
    for n in range(4, 44)
]


def _lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def _sheet(names, separator=","):
    return separator.join(names) + "\n" + "".join(separator.join(f'"{cell}"' for cell in row) + "\n" for row in ROWS)


def _pairs():
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in ROWS]


def _turn(role, text):
    return {"from": role, "value": text}


def _share_gpt():
    return [
        {"conversations": [_turn("human", prompt)], "chosen": _turn("gpt", chosen), "rejected": _turn("gpt", rejected)}
        for prompt, chosen, rejected in ROWS
    ]


def _alpaca():
    return [
        {"instruction": prompt, "input": "", "output": "?", "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in ROWS
    ]


def _open_ai():
    return [
        {
            "input": {"messages": [{"role": "user", "content": prompt}], "tools": []},
            "preferred_output": [{"role": "assistant", "content": chosen}],
            "non_preferred_output": [{"role": "assistant", "content": rejected}],
        }
        for prompt, chosen, rejected in ROWS
    ]


# name: (file, content, what is said of it)
PAIRS = {
    "JSON lines": ("pairs.jsonl", _lines(_pairs()).encode(), "prompt, chosen and rejected as texts"),
    "a list in a .jsonl": ("list.jsonl", json.dumps(_pairs(), indent=1).encode(), "prompt, chosen and rejected as texts"),
    "a mark and UTF-16": ("wide.jsonl", _lines(_pairs()).encode("utf-16"), "prompt, chosen and rejected as texts"),
    "CSV of other names": ("good-bad.csv", _sheet(["Question", "good_answer", "bad_answer"]).encode(), "The columns were guessed"),
    "CSV with semicolons and a mark": (
        "excel.csv", b"\xef\xbb\xbf" + _sheet(["prompt", "chosen", "rejected"], ";").encode(), "prompt, chosen and rejected as texts",
    ),
    "TSV": ("pairs.tsv", _sheet(["question", "chosen", "rejected"], "\t").encode(), "questions with two answers"),
    "ShareGPT": ("share.json", json.dumps(_share_gpt()).encode(), "ShareGPT preferences"),
    "Alpaca": ("alpaca.json", json.dumps(_alpaca()).encode(), "Alpaca preferences"),
    "OpenAI, gzip": ("openai.jsonl.gz", gzip.compress(_lines(_open_ai()).encode()), "OpenAI's preferences"),
}  # fmt: skip

# name: (file, content, method, what is said of it)
OTHERS = {
    "prompts": ("prompts.jsonl", _lines({"prompt": prompt} for prompt, _, _ in ROWS), "self-rewarding", "40 prompts"),
    "one answer each": (
        "sft.jsonl", _lines({"instruction": prompt, "input": "", "output": chosen} for prompt, chosen, _ in ROWS), "self-rewarding",
        "one answer to each prompt",
    ),
    "questions with numbers": (
        "numbers.csv", "problem,answer\n" + "".join(f"{prompt},{n}\n" for n, (prompt, _, _) in enumerate(ROWS)), "IRPO",
        "right answers in 'answer'",
    ),
    "questions as GSM8K has them": (
        "gsm.jsonl", _lines({"question": prompt, "answer": f"{chosen}\n#### 4"} for prompt, chosen, _ in ROWS), "IRPO", "40 questions",
    ),
    "questions with words": (
        "words.jsonl", _lines({"question": prompt, "answer": f"apple {n}"} for n, (prompt, _, _) in enumerate(ROWS)), "IRPO", "as words",
    ),
    "problems with tests": (
        "problems.jsonl",
        _lines(
            {"task_id": n, "text": f"Add {n}.", "code": f"def add{n}(x):\n    return x + {n}", "test_list": [f"assert add{n}(1) == {n + 1}"]}
            for n in range(12)
        ),
        "code preferences", "12 problems with tests",
    ),
}  # fmt: skip
