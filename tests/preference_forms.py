"""Records of preference sets as they are found, each with what must be read from it or why it cannot be used."""

USER = lambda text: {"role": "user", "content": text}
BOT = lambda text: {"role": "assistant", "content": text}
SYSTEM = lambda text: {"role": "system", "content": text}
Q, GOOD, BAD = "How many apples are left?", "There are 17 apples left.", "It is five, of course."
ASKED = [USER(Q)]
BRIEF = [SYSTEM("Answer the question."), USER(Q)]
CHAT = [USER("Hi"), BOT("Hello"), USER(Q)]
PAIR = {"chosen": GOOD, "rejected": BAD}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]}
HUMAN = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How many?\n\nAssistant:"

# name: (record, prompt); chosen is GOOD and rejected BAD
READ = {
    "text": ({"prompt": Q, **PAIR}, Q),
    "text with id and scores": ({"id": 7, "prompt": Q, **PAIR, "score_chosen": 8, "score_rejected": float("nan")}, Q),
    "implicit text": ({"chosen": f"{Q} {GOOD}", "rejected": f"{Q} {BAD}"}, Q),
    "text of a transcript": ({"prompt": HUMAN, **PAIR}, HUMAN),
    "whole transcripts": ({"chosen": HUMAN + GOOD, "rejected": HUMAN + BAD}, HUMAN),
    "whole transcripts beside their prompt": ({"prompt": HUMAN, "chosen": HUMAN + GOOD, "rejected": HUMAN + BAD}, HUMAN),
    "messages": ({"prompt": ASKED, "chosen": [BOT(GOOD)], "rejected": [BOT(BAD)]}, ASKED),
    "messages, several turns": ({"prompt": CHAT, "chosen": [BOT(GOOD)], "rejected": [BOT(BAD)]}, CHAT),
    "messages, system": ({"prompt": BRIEF, "chosen": [BOT(GOOD)], "rejected": [BOT(BAD)]}, BRIEF),
    "message as an object": ({"prompt": USER(Q), "chosen": BOT(GOOD), "rejected": BOT(BAD)}, ASKED),
    "messages, text answers": ({"prompt": ASKED, **PAIR}, ASKED),
    "implicit messages": ({"chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, ASKED),
    "implicit messages, several turns": ({"chosen": [*CHAT, BOT(GOOD)], "rejected": [*CHAT, BOT(BAD)]}, CHAT),
    "implicit messages, system": ({"chosen": [*BRIEF, BOT(GOOD)], "rejected": [*BRIEF, BOT(BAD)]}, BRIEF),
    "text prompt, whole conversations": (
        {"prompt": Q, "prompt_id": "a1", "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)], "messages": [*ASKED, BOT(GOOD)]},
        ASKED,
    ),
    "prompt stripped, whole conversations": ({"prompt": Q, "chosen": [USER(f" {Q}\n"), BOT(GOOD)], "rejected": [USER(f" {Q}\n"), BOT(BAD)]}, [USER(f" {Q}\n")]),
    "first question beside longer conversations": ({"prompt": "Hi", "chosen": [*CHAT, BOT(GOOD)], "rejected": [*CHAT, BOT(BAD)]}, CHAT),
    "templated prompt beside conversations": ({"prompt": f"<|user|>\n{Q}</s>", "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, ASKED),
    "message prompt, whole conversations": ({"prompt": CHAT, "chosen": [*CHAT, BOT(GOOD)], "rejected": [*CHAT, BOT(BAD)]}, CHAT),
    "system prompt, conversations without": ({"prompt": BRIEF, "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, BRIEF),
    "conversations with the system message": ({"prompt": ASKED, "chosen": [*BRIEF, BOT(GOOD)], "rejected": [*BRIEF, BOT(BAD)]}, BRIEF),
    "history as prompt, last turn in the answers": ({"prompt": CHAT[:2], "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, CHAT),
    "null prompt, whole conversations": ({"prompt": None, "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, ASKED),
    "NaN prompt, whole conversations": ({"prompt": float("nan"), "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, ASKED),
    "one whole conversation, one answer": ({"chosen": [*ASKED, BOT(GOOD)], "rejected": BAD}, ASKED),
    "text against messages": ({"prompt": Q, "chosen": GOOD, "rejected": [BOT(BAD)]}, ASKED),
    "question": ({"question": Q, **PAIR}, ASKED),
    "query": ({"query": Q, **PAIR}, ASKED),
    "question, text and message": ({"question": Q, "chosen": BOT(GOOD), "rejected": BAD}, ASKED),
    "system, question": ({"system": "Answer the question.", "question": Q, **PAIR}, BRIEF),
    "empty system, question": ({"system": "", "question": Q, **PAIR}, ASKED),
    "null system, question": ({"system": None, "question": Q, **PAIR}, ASKED),
    "system, prompt": ({"id": "t", "source": "x", "system": "Answer the question.", "prompt": Q, **PAIR}, BRIEF),
    "system_prompt, conversations": ({"system_prompt": "Answer the question.", "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)], "prompt": ASKED}, BRIEF),
    "system, input": ({"system": "Answer the question.", "input": Q, **PAIR}, BRIEF),
    "instruction": ({"instruction": Q, **PAIR}, ASKED),
    "instruction, empty input": ({"instruction": Q, "input": "", **PAIR}, ASKED),
    "instruction, input": ({"instruction": "How many", "input": "apples?", **PAIR}, [USER("How many\n\napples?")]),
    "instruction, history": ({"instruction": Q, "input": None, "history": [["Hi", "Hello"]], **PAIR}, CHAT),
    "instruction, chosen_response": ({"source": "x", "instruction": Q, "chosen_response": GOOD, "rejected_response": BAD, "chosen_avg_rating": 5.0}, ASKED),
    "empty prompt beside a question": ({"prompt": "", "question": Q, **PAIR}, ASKED),
    "sharegpt": ({"conversations": [{"from": "human", "value": Q}], "chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}, ASKED),
    "sharegpt, several turns": (
        {"conversations": [{"from": "system", "value": "Answer the question."}, {"from": "human", "value": Q}],
         "chosen": [{"from": "gpt", "value": GOOD}], "rejected": [{"from": "chatgpt", "value": BAD}]}, BRIEF,
    ),
    "sharegpt, whole conversations": (
        {"chosen": [{"from": "human", "value": Q}, {"from": "gpt", "value": GOOD}],
         "rejected": [{"from": "human", "value": Q}, {"from": "gpt", "value": BAD}]}, ASKED,
    ),
    "messages beside answers": ({"messages": CHAT, **PAIR}, CHAT),
    "messages with the answer at their end": ({"messages": [*CHAT, BOT(GOOD)], **PAIR}, CHAT),
    "conversation beside message answers": ({"conversation": ASKED, "chosen": [BOT(GOOD)], "rejected": [BOT(BAD)]}, ASKED),
    "content in parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "How many "}, {"type": "text", "text": "apples are left?"}]}],
         "chosen": [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}], "rejected": [BOT(BAD)]}, ASKED,
    ),
    "messages with null keys": ({"prompt": [{**USER(Q), "name": None}], "chosen": [{**BOT(GOOD), "tool_calls": None}], "rejected": [BOT(BAD)]}, ASKED),
    "role names of other frameworks": ({"prompt": [{"role": "human", "content": Q}], "chosen": [{"role": "model", "content": GOOD}], "rejected": [BOT(BAD)]}, ASKED),
    "answer without a role": ({"prompt": ASKED, "chosen": {"content": GOOD}, "rejected": {"content": BAD}}, ASKED),
    "null columns of other forms": ({"prompt": Q, "question": None, "nodes": None, "margin": None, "weight": None, "tools": None, **PAIR}, Q),
}  # fmt: skip

# name: (record, what the reason says)
UNUSABLE = {
    "chosen null": ({"prompt": Q, "chosen": None, "rejected": BAD}, "`chosen` is null"),
    "rejected NaN": ({"prompt": Q, "chosen": GOOD, "rejected": float("nan")}, "`rejected` is null"),
    "answers are numbers": ({"prompt": Q, "chosen": 4, "rejected": 5}, "`chosen` is int"),
    "answers are booleans": ({"prompt": Q, "chosen": True, "rejected": False}, "`chosen` is bool"),
    "answers are lists of texts": ({"prompt": Q, "chosen": [GOOD], "rejected": [BAD]}, r"`chosen\[0\]` is str"),
    "prompt a number": ({"prompt": 17, **PAIR}, "`prompt` is int"),
    "prompt empty": ({"prompt": "", **PAIR}, "`prompt` is empty"),
    "prompt blank": ({"prompt": " \n", **PAIR}, "`prompt` is empty"),
    "prompt of no message": ({"prompt": [], **PAIR}, "`prompt` is empty"),
    "prompt of empty messages": ({"prompt": [USER("")], **PAIR}, "`prompt` is empty"),
    "prompt of a number": ({"prompt": [{"role": "user", "content": 5}], **PAIR}, r"`prompt\[0\].content` is int"),
    "prompt message without a role": ({"prompt": [{"content": Q}], **PAIR}, "without a role"),
    "chosen empty": ({"prompt": Q, "chosen": "", "rejected": BAD}, "`chosen` is empty"),
    "rejected blank": ({"prompt": Q, "chosen": GOOD, "rejected": "\n"}, "`rejected` is empty"),
    "rejected of no message": ({"prompt": ASKED, "chosen": [BOT(GOOD)], "rejected": []}, "`rejected` is empty"),
    "rejected of an empty message": ({"prompt": ASKED, "chosen": [BOT(GOOD)], "rejected": [BOT("")]}, "`rejected` is empty"),
    "content null": ({"prompt": ASKED, "chosen": [BOT(GOOD)], "rejected": [BOT(None)]}, "content` is null"),
    "content of an image": ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], **PAIR}, "a part of type 'image'"),
    "equal texts": ({"prompt": Q, "chosen": GOOD, "rejected": GOOD}, "the same response"),
    "equal text and message": ({"prompt": Q, "chosen": GOOD, "rejected": [BOT(GOOD)]}, "the same response"),
    "no prompt": ({"chosen": "4", "rejected": "5"}, "`prompt` is missing"),
    "no prompt beside messages": ({"chosen": [BOT(GOOD)], "rejected": [BOT(BAD)]}, "`prompt` is missing"),
    "different questions": ({"chosen": [USER("Hi"), BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, "the same question"),
    "different questions after a system": ({"chosen": [BRIEF[0], USER("Hi"), BOT(GOOD)], "rejected": [*BRIEF, BOT(BAD)]}, "the same question"),
    "different transcripts": ({"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Ho\n\nAssistant: No"}, "the same question"),
    "conversation of another prompt": ({"prompt": "Who was it?", "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, "not what the conversations"),
    "messages of another prompt": ({"prompt": [USER("Who?"), BOT("He."), USER("Why?")], "chosen": [*ASKED, BOT(GOOD)], "rejected": [*ASKED, BOT(BAD)]}, "not what the conversations"),
    "conversation that ends with another answer": ({"messages": [*ASKED, BOT("No.")], **PAIR}, "ends with an assistant's turn"),
    "question a number": ({"question": 5, **PAIR}, "`question` is int"),
    "system a number": ({"system": 5, "question": Q, **PAIR}, "`system` is int"),
    "weight of a word": ({"prompt": Q, **PAIR, "weight": "high"}, "`weight` is 'high'"),
    "weight zero": ({"prompt": Q, **PAIR, "weight": 0}, "weight is 0.0"),
    "weight NaN": ({"prompt": Q, **PAIR, "weight": float("nan")}, "weight is nan"),
    "margin infinite": ({"prompt": Q, **PAIR, "margin": float("inf")}, "margin is inf"),
    "half a character": ({"prompt": ASKED, "chosen": GOOD, "rejected": "so \ud83d"}, "`rejected` holds half a character"),
    "tools that are no JSON": ({"prompt": ASKED, **PAIR, "tools": "look"}, "`tools` is a text that is not JSON"),
    "tools an object": ({"prompt": ASKED, **PAIR, "tools": {"name": "look"}}, "`tools` is dict"),
}  # fmt: skip

# name: (record, what the refusal names)
REFUSED = {
    "other names": ({"q": Q, "good": GOOD, "bad": BAD}, "there are bad, good, q"),
    "misspelt": ({"prompt": Q, "choosen": GOOD, "rejected": BAD}, "did you mean 'choosen'"),
    "labels": ({"history": Q, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1}, "human_ref_A"),
    "prompt of another name": ({"ask": Q, **PAIR}, "'ask' may hold it"),
    "prompt of another name, common beginning": ({"ask": Q, "chosen": "It is 4", "rejected": "It is 5"}, "'ask' may hold it"),
}
