"""Rounds on the questions of a task, graded by the stated answer alone (IRPO): what is asked, how it is graded, which pairs come of it."""

import json
from collections import Counter

import pytest
from conftest import byte_level_tokenizer, random_model

from align import recipes
from align.errors import AlignError
from align.plans import stages_of
from align.rewards.pairing import pairs_of
from align.rewards.scorers import ScorerSettings, open_scorer
from align.runs import Journal, Task
from align.trees import Node, PreferenceTree, read_trees, to_record, write_trees
from data_pipelines.implicit_rewards.pairing import pair
from data_pipelines.rollouts.prompts import prompt_id, read_prompts
from data_pipelines.thought_trees.answered import ask
from data_pipelines.thought_trees.tasks import load_task

QUESTIONS = [{"question": f"How much is {n} and {n}?", "answer": f"Twice {n}.\n#### {2 * n}"} for n in range(3, 9)]
SETTINGS = {"task": "gsm8k", "source": {}, "chat": False, "system": None}


def asked(folder, rows=QUESTIONS, **changes):
    """What the stage `questions` leaves."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask(Task("questions", folder, {**SETTINGS, **changes}, {"questions": str(folder / "rows.jsonl")}))
    return folder


def graded(folder, responses):
    """Rewards of responses to the first question."""
    (prompt, *_), _ = read_prompts(str(folder / "prompts.jsonl"))
    nodes = tuple(Node(text, metadata={"finish_reason": ended}) for text, ended in responses)
    scorer = open_scorer("answer", ScorerSettings("", "", questions=str(folder / "questions.json")))
    ((*scores,),) = scorer.score([PreferenceTree(prompt.prompt, nodes, id=prompt.id)])
    return [score.reward for score in scores]


def test_questions_are_asked_behind_examples_or_as_a_users_message(tmp_path):
    plain, _ = read_prompts(str(asked(tmp_path / "plain") / "prompts.jsonl"))
    task = load_task("gsm8k")
    assert len(plain) == 6
    assert plain[0].prompt.count(task.examples[0].fields["question"]) == 1
    assert "How much is 3 and 3?" in plain[0].prompt
    chat, _ = read_prompts(str(asked(tmp_path / "chat", chat=True, system="Be brief.") / "prompts.jsonl"))
    assert [message["role"] for message in chat[0].prompt] == ["system", "user"]
    assert task.examples[0].fields["question"] not in chat[0].prompt[1]["content"]
    known = json.loads((tmp_path / "chat/questions.json").read_text())["questions"]
    assert set(known) == {prompt_id(one.prompt) for one in chat}
    assert known[chat[0].id]["gold"] == ["6"]


def test_a_response_is_worth_one_where_it_states_the_gold_answer(tmp_path):
    responses = [("So the final answer is: 6.", "stop"), ("So the final answer is: 7.", "stop"), ("I do not know.", "stop")]
    assert graded(asked(tmp_path / "plain"), responses) == [1.0, 0.0, 0.0]
    chat = [("3 + 3 = 6\n\n**Answer: 6**", "stop"), (r"It is \boxed{6}.", "stop"), ("#### 7", "stop"), ("3 + 3 is", "length")]
    assert graded(asked(tmp_path / "chat", chat=True), chat) == [1.0, 1.0, 0.0, 0.0]


def test_a_task_without_gold_answers_is_refused(tmp_path):
    rows = [{"Numbers": "1 2 3 4"}, {"Numbers": "2 3 4 5"}]
    with pytest.raises(AlignError, match=r"rounds\.questions: the task .* names no gold answers"):
        asked(tmp_path / "game", rows, task=str(_without_gold(tmp_path)))


def _without_gold(folder):
    task = folder / "own.yaml"
    task.write_text(
        "description: none\ndata: {fields: {numbers: Numbers}}\nquestion: '{numbers}'\nsteps: 1\nanswer: '(\\w+)'\ngrader: {name: text}\n"
    )
    return task


@pytest.mark.parametrize("cap", [None, 1, 3])
def test_right_stands_over_wrong_and_never_beside_its_like(tmp_path, cap):
    """Every right over every wrong response, or so many of these pairs, the same ones at the same seed."""
    rewards = {"a": [1.0, 0.0, 1.0, 0.0, 0.0], "b": [1.0, 1.0, 1.0, 1.0, 1.0], "c": [0.0, 1.0, 0.0, 0.0, 0.0]}
    trees = [PreferenceTree(f"{id}?", tuple(Node(f" {id}{k}", token_ids=(k + 1,)) for k in range(5)), (), (5,), id) for id in rewards]
    write_trees(trees, tmp_path / "trees.jsonl")
    journal = Journal(tmp_path / "scores")
    journal.append((id, {"answer": [{"reward": r} for r in given]}) for id, given in rewards.items())
    settings = {
        "scorers": [{"name": "answer"}], "length_unit": "tokens", "length_alpha": 0.0, "pairing": "right_over_wrong", "pairs": cap,
        "replay": 0.0, "seed": 1, "round": 1,
    }  # fmt: skip
    found = []
    for attempt in ("first", "again"):
        (tmp_path / attempt).mkdir()
        pair(Task("pair", tmp_path / attempt, settings, {"trees": str(tmp_path / "trees.jsonl"), "scores": str(tmp_path / "scores")}))
        made, _ = read_trees(tmp_path / attempt / "pairs.jsonl")
        found.append([to_record(tree) for tree in made])
    assert found[0] == found[1]
    counts = Counter(str(tree.id) for tree in made for _ in tree.edges)
    assert counts == {"a": 6 if cap is None else cap, "c": 4 if cap is None else min(cap, 4)}
    for tree in made:
        for edge in tree.edges:
            assert (tree.nodes[edge.chosen].score, tree.nodes[edge.rejected].score) == (1.0, 0.0)


def test_the_rule_takes_every_pair_of_different_rewards():
    assert sorted(pairs_of([0.0, 1.0, 1.0, 0.0], "right_over_wrong")) == [(1, 0), (1, 3), (2, 0), (2, 3)]
    assert sorted(pairs_of([0.5, 1.0, 0.0], "right_over_wrong")) == [(0, 2), (1, 0), (1, 2)]


def recipe(tmp_path, **changes):
    if not (tmp_path / "model").exists():
        random_model().save_pretrained(tmp_path / "model")
        byte_level_tokenizer().save_pretrained(tmp_path / "model")
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    raw = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "rollouts": {"prompts": str(tmp_path / "rows.jsonl"), "samples": 4},
        "rounds": {
            "count": 2, "questions": "gsm8k", "scorers": [{"name": "answer"}], "pairing": "right_over_wrong", "length_alpha": 0.0,
            "replay": 0.0, "filter": {"min_responses": 2},
        },
        "measure": [{"suite": "questions", "data": str(tmp_path / "rows.jsonl")}],
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            raw[section][name] = value
        else:
            raw[section] = value
    return recipes.parse(raw, "recipe")


def test_its_stages_ask_once_and_measure_as_they_ask(tmp_path):
    stages = {stage.name: stage for stage in stages_of(recipe(tmp_path))}
    of_a_round = ("sample", "filter", "score", "pair", "train", "questions/evaluate")
    assert list(stages) == ["questions", "start/questions/evaluate", *(f"round-{n}/{name}" for n in (1, 2) for name in of_a_round)]
    assert stages["round-2/score"].inputs["questions"].path == "questions.json"
    assert stages["round-1/sample"].settings["sampling"]["stop"] == tuple(load_task("gsm8k").end)
    assert stages["start/questions/evaluate"].settings["form"] == "examples"
    chat = {stage.name: stage for stage in stages_of(recipe(tmp_path, rollouts__chat=True))}
    assert chat["round-1/sample"].settings["sampling"]["stop"] == ()
    assert chat["start/questions/evaluate"].settings["form"] == "chat"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds__questions": None, "measure": []}, "belong together"),
        ({"rounds__scorers": [{"name": "length"}]}, "belong together"),
        ({"rounds__replay": 0.5}, "data.train is missing"),
        ({"rounds__length_alpha": "fit"}, "set rounds.length_alpha to 0"),
        ({"rounds__pairs": 0}, "rounds.pairs is 0: expected 1 or more"),
        ({"rounds__questions": "careless", "measure": ["questions"]}, "measure.0.data is missing"),
        ({"rounds__questions": None}, "the suite 'questions' asks held-out questions of the recipe's task, which has none"),
        ({"rounds__questions": "gsm9k"}, "no such task: did you mean 'gsm8k'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(AlignError, match=message):
        stages_of(recipe(tmp_path, **changes))
