"""The rules of the search: what is sampled, judged, kept, merged, dropped and set aside."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted, searching, write_task

from align.errors import AlignError
from align.runs import Journal, Shard, Task
from align.trees import Node, PreferenceTree, path_text, to_record
from data_pipelines.thought_trees.asks import together
from data_pipelines.thought_trees.judges import JudgeSettings, find_judge
from data_pipelines.thought_trees.search import SetAsideError, _warn_of_ties
from data_pipelines.thought_trees.selection import best, winners
from data_pipelines.thought_trees.tasks import load_task
from eval.chain_of_thought import grade_searches


class ByText:
    """A judge that looks a thought's last word up."""

    def __init__(self, values):
        self.values = values

    def judge(self, level):
        from data_pipelines.thought_trees.judges import Judgement

        yield from ()
        return [Judgement(self.values.get(c.thoughts[-1].split()[-1])) for c in level.candidates]


class ByValue:
    """A judge that gives every thought the same value."""

    def __init__(self, value):
        self.value = value

    def judge(self, level):
        from data_pipelines.thought_trees.judges import Judgement

        yield from ()
        return [Judgement(self.value) for _ in level.candidates]


VALUES = {"one": 5.0, "two": 3.0, "three": 3.0, "four": 1.0, "4": 2.0, "5": 3.0, "six": 0.0}
FIRST = ["go one\n", "go two\n", "go three\n", "go four\n"]


def say(context):
    if "go" not in context:
        return FIRST
    return ["the answer is 4\n", "the answer is 5\n"] if "go one" in context else ["The answer is 4\n", "the answer is 4\n"]


def run(searches, engine):
    return dict(together(searches, engine))


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path)


def test_a_judge_that_says_one_thing_of_everything_is_told_of_once(task, caplog):
    """Every tie goes on, as in CPO's code; what that costs is said before it is spent, and a bound on it is not told of."""
    engine = Scripted(lambda context: [f"go number {n}\n" for n in range(12)] if "go" not in context else ["the answer is 4\n"])
    run({"q": searching(engine, ByValue(1.0), task, thoughts=12, keep=1, keep_at_most=3)}, engine)
    assert caplog.text == ""
    _warn_of_ties.cache_clear()
    for _ in range(2):
        run({"q": searching(engine, ByValue(1.0), task, thoughts=12, keep=1, keep_at_most=None)}, engine)
    assert caplog.text.count("more than 10 paths that its judge gives equal values") == 1
    assert "`thoughts.keep_at_most` bounds them" in caplog.text


def test_k_thoughts_the_best_and_ties_and_the_answer_whose_values_sum_highest(task):
    engine = Scripted(say)
    tree = run({"q": searching(engine, ByText(VALUES), task)}, engine)["q"]
    texts = [node.text for node in tree.nodes]
    assert texts[:4] == FIRST
    assert [tree.nodes[i].text for i in tree.children(0)] == ["the answer is 4\n", "the answer is 5\n"]
    assert [len(tree.children(i)) for i in range(4)] == [2, 1, 1, 0]  # two and three tie with the second best; four is not kept
    found = tree.metadata["search"]
    assert found["answer"] == "4"  # 2 + 2 + 2 beat 3, the highest single value
    assert [path_text(tree, tree.path(node)) for node in found["kept"]] == [f"go {word}\nthe answer is 4\n" for word in ("one",)] + [
        f"go {word}\nThe answer is 4\n" for word in ("two", "three")
    ]
    assert found["right"] is True
    assert found["dropped"] == {"duplicates": 2 + 3 + 3}
    assert tree.nodes[tree.children(1)[0]].metadata["copies"] == 4


def test_ties_are_cut_where_they_should_be(task):
    engine = Scripted(say)
    tree = run({"q": searching(engine, ByText(VALUES), task, keep_at_most=2)}, engine)["q"]
    assert [len(tree.children(i)) for i in range(4)] == [2, 1, 0, 0]


def test_token_ids_are_the_sampled_ones_and_their_text_is_untouched(task):
    engine = Scripted(lambda context: ["  Go ONE  \n"] if "ONE" not in context else [" so the answer is 4.\n"])
    tree = run({"q": searching(engine, ByText({"ONE": 1.0, "4.": 1.0}), task)}, engine)["q"]
    assert [node.text for node in tree.nodes] == ["  Go ONE  \n", " so the answer is 4.\n"]
    for node in tree.nodes:
        assert engine.tokenizer.decode(node.token_ids) == node.text


def test_a_thought_that_runs_into_the_next_step_is_cut_before_it(task):
    engine = Scripted(lambda context: ["go one. Step 2: the answer is 5"] if "one" not in context else ["the answer is 4\n"])
    tree = run({"q": searching(engine, ByText({"one.": 1.0, "4": 1.0}), task)}, engine)["q"]
    assert tree.nodes[0].text == "go one. "
    assert engine.tokenizer.decode(tree.nodes[0].token_ids) == tree.nodes[0].text


def test_a_response_that_ends_early_stays_in_the_race(task):
    engine = Scripted(lambda context: ["the answer is 4", "go one\n"] if "one" not in context else ["the answer is 5\n"])
    tree = run({"q": searching(engine, ByText({**VALUES, "4": 4.0}), task)}, engine)["q"]
    assert tree.metadata["search"]["answer"] == "4"
    assert tree.nodes[0].metadata == {"ended": True, "copies": 2}


REASONS = {
    "no marker": (lambda context: ["on and on " * 20], {}, "step 1: no thought is left: all are cut for length before a step marker"),
    "near-empty": (lambda context: ["\n", " .\n"], {}, "step 1: no thought is left: all are near-empty"),
    "all paths die": (say, {"min_value": 9.0}, r"step 1: all paths died: no thought is worth min_value \(9\)"),
    "not judged": (lambda context: ["go nowhere\n"], {}, "step 1: no judgement of any thought could be read"),
    "no answer": (lambda context: ["go one\n"], {}, "no final thought states an answer that can be read"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_question_without_a_way_is_set_aside_and_the_others_go_on(name, task):
    speak, settings, reason = REASONS[name]
    engine = Scripted(lambda context: speak(context) if "bad" in context else say(context))
    judge = ByText(VALUES)
    found = run({"bad": searching(engine, judge, task, "bad?", **settings), "good": searching(engine, judge, task)}, engine)
    assert isinstance(found["bad"], SetAsideError)
    assert found["bad"].cost["tokens"] > 0
    import re

    assert re.fullmatch(reason, str(found["bad"]))
    assert found["good"].metadata["search"]["answer"] == "4"


def test_every_call_carries_every_open_path_of_every_question(task):
    engine = Scripted(say)
    names = [f"q{i}" for i in range(5)]
    run({name: searching(engine, ByText(VALUES), task, f"{name}?") for name in names}, engine)
    assert [len(call) for call in engine.calls] == [5, 15]


def judged(text, **changes):
    """What self-evaluation makes of a judge that says `text` of every path."""
    engine = Scripted(lambda context: text if context.endswith("Evaluation: ") else say(context))
    settings = JudgeSettings(load_task(changes.pop("task")), votes=4, **changes)
    return engine, find_judge("self_evaluation")(settings)


def test_self_evaluation_reads_the_verdict_line_only_and_leaves_unreadable_votes_out(task):
    texts = ["It is impossible to say.\nVerdict: likely", "Verdict: impossible.", "likely", "Verdict: likely or impossible"]
    engine, judge = judged(texts, task=task)
    tree = run({"q": searching(engine, judge, task)}, engine)["q"]
    assert {node.score for node in tree.nodes} == {1.001}, "the sum of the readable votes: CPO's code adds votes, and scales nothing up"
    assert tree.nodes[0].metadata["judgement"]["verdicts"] == ["likely", "impossible", None, None]
    assert tree.nodes[0].metadata["judgement"]["texts"] == texts
    assert tree.metadata["search"]["dropped"]["judgements unreadable"] == 2 * len(tree.nodes)


def test_a_task_may_count_unreadable_votes_as_the_authors_code_does(tmp_path):
    task = write_task(tmp_path, judge={"step": {"ask": "Evaluation: "}, "unreadable": 0.001})
    engine, judge = judged(["Verdict: likely", "Verdict: impossible.", "hm", ""], task=task)
    tree = run({"q": searching(engine, judge, task)}, engine)["q"]
    assert {node.score for node in tree.nodes} == {1.003}
    engine, judge = judged(["I cannot tell."], task=task)
    assert "no judgement of any thought could be read" in str(run({"q": searching(engine, judge, task)}, engine)["q"])


def test_a_judge_that_never_answers_readably_sets_the_question_aside(task):
    engine, judge = judged(["I cannot tell."], task=task)
    found = run({"q": searching(engine, judge, task)}, engine)["q"]
    assert str(found) == "step 1: no judgement of any thought could be read"


def test_the_final_answer_is_judged_by_a_prompt_of_its_own(tmp_path):
    task = write_task(tmp_path, judge={"step": {"ask": "Evaluation: "}, "final": {"instruction": "At last.\n", "ask": "Evaluation: "}})
    seen = []

    def speak(context):
        if not context.endswith("Evaluation: "):
            return say(context)
        seen.append(("answer" in context, context.startswith("At last.\n")))
        return ["Verdict: likely"]

    engine = Scripted(speak)
    run({"q": searching(engine, find_judge("self_evaluation")(JudgeSettings(load_task(task), votes=1)), task)}, engine)
    assert set(seen) == {(False, False), (True, True)}


def test_siblings_vote(task):
    def speak(context):
        if "Verdict: N" not in context:
            return say(context)
        return ["Verdict: 2", "Verdict: 1", "Verdict: 2", "Verdict: 9"] if "go one\n1." not in context else ["none of them"]

    engine = Scripted(speak)
    settings = JudgeSettings(load_task(task), votes=4)
    tree = run({"q": searching(engine, find_judge("vote")(settings), task, keep=1, keep_at_most=1)}, engine)["q"]
    assert [tree.nodes[i].score for i in range(4)] == [1.0, 2.0, 0.0, 0.0]
    assert tree.nodes[4].score == 4.0  # an only child has all votes


def test_all_candidates_of_a_level_can_be_voted_on_together(task):
    seen = []

    def speak(context):
        if "Verdict: N" not in context:
            return say(context)
        seen.append(context)
        return ["Verdict: 2", "Verdict: 1", "Verdict: 2", "Verdict: 9"]

    engine = Scripted(speak)
    judge = find_judge("vote")(JudgeSettings(load_task(task), votes=4, options={"among": "level"}))
    tree = run({"q": searching(engine, judge, task, keep=2)}, engine)["q"]
    assert [node.score for node in tree.nodes] == [1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 0.0]
    assert len(seen) == 2, "one request a level, not one a family"
    assert seen[1].count("\n2. go one the answer is") == 1, "candidates of different parents are shown whole"
    with pytest.raises(AlignError, match="among is 'levels': did you mean 'level'"):
        find_judge("vote")(JudgeSettings(load_task(task), options={"among": "levels"}))


def test_the_last_step_can_be_begun_for_the_model(tmp_path):
    task = write_task(tmp_path, last_step="Step 2: the answer is")
    asked = []

    def speak(context):
        asked.append(context)
        return [" 4.\n", " 5.\n", "\n"] if context.endswith("Step 2: the answer is") else ["go one\n"]

    engine = Scripted(speak)
    judge = ByText({"one": 1.0, "4.": 2.0, "5.": 1.0})
    tree = run({"q": searching(engine, judge, task)}, engine)["q"]
    assert [node.text for node in tree.nodes] == ["go one\n", "Step 2: the answer is 4.\n", "Step 2: the answer is 5.\n"]
    assert asked[1].endswith("go one\nStep 2: the answer is")
    for node in tree.nodes:
        assert engine.tokenizer.decode(node.token_ids) == node.text
    assert tree.metadata["search"]["answer"] == "4"
    assert tree.metadata["search"]["dropped"]["near-empty"] == 1, "nothing was said after the beginning"


def test_the_checker_wants_right_steps_and_the_gold_answer(task):
    engine = Scripted(say)
    tree = run({"q": searching(engine, find_judge("checker")(JudgeSettings(load_task(task))), task)}, engine)["q"]
    assert [node.score for node in tree.nodes if "answer" in node.text] == [1.0, 0.0, 1.0, 1.0, 1.0]
    found = run({"q": searching(engine, find_judge("checker")(JudgeSettings(load_task(task))), task, gold=())}, engine)["q"]
    assert "needs a gold answer" in str(found)


def test_a_scorer_is_a_judge_and_is_called_once_a_level_for_all_questions(task):
    calls = []

    def reward(prompt, response):
        calls.append(response)
        return float("one" in response) + float(response.endswith("4\n"))

    import sys
    import types

    sys.modules["reward_of_test"] = types.SimpleNamespace(reward=reward)
    judge = find_judge("function")(JudgeSettings(load_task(task), options={"function": "reward_of_test:reward"}))
    engine = Scripted(say)
    found = run({name: searching(engine, judge, task, f"{name}?") for name in ("a", "b")}, engine)
    assert [node.score for node in found["a"].nodes[:4]] == [1.0, 0.0, 0.0, 0.0]
    assert found["b"].metadata["search"]["answer"] == "4"
    assert "go one\nthe answer is 4\n" in calls


values = st.lists(st.sampled_from([0.0, 1.0, 2.5, 3.0]), min_size=1, max_size=30)


@given(values, st.integers(1, 6), st.integers(0, 6))
def test_whatever_is_kept_is_better_than_or_ties_with_what_is_not(scores, keep, more):
    kept = best(range(len(scores)), scores.__getitem__, keep, keep + more)
    assert len(kept) >= min(keep, len(scores))
    assert len(kept) <= keep + more
    others = [scores[i] for i in range(len(scores)) if i not in kept]
    assert all(other <= min(scores[i] for i in kept) for other in others)
    assert len(kept) <= keep or all(scores[i] == scores[kept[keep - 1]] for i in kept[keep:])


@given(st.dictionaries(st.integers(0, 40), st.tuples(st.sampled_from("abc"), st.floats(0, 5)), min_size=1))
def test_the_winner_has_the_highest_sum(found):
    answer, kept = winners({node: text for node, (text, _) in found.items()}, lambda node: found[node][1])
    sums = {text: sum(value for one, value in found.values() if one == text) for text, _ in found.values()}
    assert sums[answer] == max(sums.values())
    assert set(kept) == {node for node, (text, _) in found.items() if text == answer}


def test_what_a_search_that_is_set_aside_has_cost_counts_for_all_questions(tmp_path):
    spent = {"tokens": 30, "judge_tokens": 12}
    search = {"question": {"q": "a"}, "answer": "1", "right": True, "cost": {"tokens": 6}}
    tree = to_record(PreferenceTree("q", (Node("1"),), id="a", metadata={"search": search}))
    journal = Journal(tmp_path / "searches", Shard())
    journal.append([("a", {"tree": tree}), ("b", {"question": {"q": "b"}, "reason": "no answer", "cost": spent})])
    journal.close()
    grade_searches(Task("grade", tmp_path, {}, {"searches": str(tmp_path / "searches"), "cost": str(tmp_path / "cost")}))
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert (found["tokens"], found["accuracy"], found["questions"]) == (24.0, 0.5, 2)
