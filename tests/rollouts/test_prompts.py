"""System messages and chat templates on the way to the model: put in, left alone, refused; prompts that a template cannot render."""

import json
import subprocess
import sys

import pytest
from conftest import TEMPLATE, byte_level_tokenizer

from align.errors import AlignError
from align.runs import Task, read_journal
from align.trees import from_record
from data_pipelines.rollouts.prompts import asked_as, check_system, conversation, read_prompts
from data_pipelines.rollouts.stages import sample

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
LEFT_OUT = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
ZEPHYR = (  # as HuggingFaceH4/zephyr-7b-beta's, which writes an empty system turn out
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ '<|system|>\n' + m['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("prompt", "system", "roles"),
    [
        ("hello", None, ["user"]),
        ("hello", "", ["system", "user"]),
        ("hello", "be kind", ["system", "user"]),
        (HELLO, "be kind", ["system", "user"]),
        ([{"role": "system", "content": "mine"}, *HELLO], "be kind", ["system", "user"]),
        ([{"role": "developer", "content": "mine"}, *HELLO], "be kind", ["developer", "user"]),
    ],
)
def test_a_system_message_stands_first_where_there_is_none(prompt, system, roles):
    found = conversation(prompt, system)
    assert [message["role"] for message in found] == roles
    assert found[0]["content"] == ("mine" if isinstance(prompt, list) and len(prompt) == 2 else system if system is not None else "hello")


def test_texts_stay_texts_without_chat():
    assert asked_as("go on", False, None) == "go on"
    assert asked_as(HELLO, False, "be kind")[0]["role"] == "system"


@pytest.mark.parametrize(
    ("template", "system", "chat", "message"),
    [
        (None, "x", True, "rollouts.system: the model has no chat template"),
        (TEMPLATE, "x", False, "rollouts.system: prompts are plain text here"),
        (NO_SYSTEM, "x", True, r"takes no system message \(System role not supported\)"),
        (LEFT_OUT, "be kind", True, "leaves the system message out"),
    ],
)
def test_a_system_message_that_would_not_reach_the_model_is_refused(template, system, chat, message):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    check_system(None, tokenizer, chat)
    with pytest.raises(AlignError, match=message):
        check_system(system, tokenizer, chat)


def run(folder, model, prompts, **settings):
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    given = {
        "source": {}, "chat": None, "system": None, "engine": {"dtype": "float32"}, "samples": 1, "seed": 0, "round": 1,
        "sampling": {"max_new_tokens": 4, "temperature": 1.0, "stop": [], "stop_token_ids": []},
    }  # fmt: skip
    sample(Task("sample", folder, {**given, **settings}, {"model": str(model), "prompts": str(folder / "prompts.jsonl")}))
    return [from_record(record) for record in read_journal(folder / "samples").values()]


def test_an_empty_system_message_is_another_prompt_than_none(base_folder, tmp_path):
    tokenizer, shown = byte_level_tokenizer(), {}
    for system in (None, "", "be kind"):
        folder = tmp_path / f"system {system}"
        folder.mkdir()
        (tree,) = run(folder, base_folder, ["hello"], system=system, engine={"dtype": "float32", "chat_template": ZEPHYR})
        shown[system] = tokenizer.decode(tree.prompt_token_ids)
        assert tree.prompt == conversation("hello", system), "what is trained on has the system message, too"
    assert shown[None] == "<|user|>\nhello<|im_end|>\n<|assistant|>\n"
    assert shown[""] == "<|system|>\n<|im_end|>\n" + shown[None]
    assert shown["be kind"] == "<|system|>\nbe kind<|im_end|>\n" + shown[None]


def test_a_stop_token_by_its_text_ends_samples(base_folder, tmp_path):
    sampling = {"max_new_tokens": 60, "temperature": 1.0, "stop": [], "stop_token_ids": ["<|endoftext|>", *range(100, 140)]}
    trees = run(tmp_path, base_folder, [f"hello {i}" for i in range(8)], sampling=sampling)
    assert {node.token_ids[-1] >= 100 or node.token_ids[-1] in (0, 2) for tree in trees for node in tree.nodes} == {True}
    with pytest.raises(AlignError, match=r"rollouts.stop_token_ids: '<\|eot_id\|>' is no single token"):
        run(tmp_path / "samples", base_folder, ["hi"], sampling={**sampling, "stop_token_ids": ["<|eot_id|>"]})


def test_a_prompt_that_the_template_refuses_is_set_aside(base_folder, tmp_path):
    """One strange conversation costs itself, and not the run."""
    engine = {"dtype": "float32", "chat_template": NO_SYSTEM}
    refused = [{"role": "system", "content": "x"}, *HELLO]
    (tree,) = run(tmp_path, base_folder, [HELLO, refused], engine=engine)
    assert tree.prompt == HELLO
    (record,) = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert record["reason"] == "the chat template does not take these messages (system, user): System role not supported"
    assert record["record"] == {"prompt": refused}


UNUSABLE = {
    "no JSON": ("{not json", "the line is not a record"),
    "a list": ("[1, 2]", "the line is not a record"),
    "no such column": ({"ask": "q"}, "there is no column 'prompt'"),
    "null": ({"prompt": None}, "`prompt` is null"),
    "empty": ({"prompt": ""}, "`prompt` is empty or no prompt"),
    "no message": ({"prompt": []}, "`prompt` is empty"),
    "a number": ({"prompt": 7}, "`prompt` is int: expected text or messages"),
    "no message but a text": ({"prompt": ["hello"]}, "expected a message"),
    "a message of null": ({"prompt": [None]}, "expected a message"),
    "no user": ({"prompt": [{"role": "system", "content": "s"}]}, "`prompt` is empty or no prompt"),
    "no content": ({"prompt": [{"role": "user", "content": None}]}, "content"),
    "half a character": ({"prompt": "cut \ud83d"}, "half a character"),
    "half a character in a message": ({"prompt": [{"role": "user", "content": "\udcff"}]}, "half a character"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_record_without_a_prompt_costs_itself_alone(name, tmp_path):
    record, reason = UNUSABLE[name]
    bad = record if isinstance(record, str) else json.dumps(record)
    path = tmp_path / "prompts.jsonl"
    good = {"prompt": [{"from": "human", "value": "b"}, {"from": "gpt", "value": "c"}]}
    path.write_text("\n".join([json.dumps({"prompt": "a"}), bad, json.dumps(good)]))
    prompts, (rejected,) = read_prompts(str(path))
    assert [prompt.prompt for prompt in prompts] == ["a", [{"role": "user", "content": "b"}]]
    assert rejected.where == f"{path} line 2"
    assert reason in rejected.reason
    path.write_text(f"{bad}\n{bad}\n")
    with pytest.raises(AlignError, match=r"line 1: .* \(no record of .* has a prompt\)"):
        read_prompts(str(path))


def test_processes_that_share_a_stage_write_the_same_file_at_the_same_time(tmp_path):
    """What cannot be sampled from is found by every process of the stage."""
    code = f"from align.trees import write_jsonl\nfor _ in range(300): write_jsonl([{{'where': 'a'}}] * 50, {str(tmp_path / 'rejected.jsonl')!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == ["", "", ""]
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 50
    assert [path.name for path in tmp_path.iterdir()] == ["rejected.jsonl"]
