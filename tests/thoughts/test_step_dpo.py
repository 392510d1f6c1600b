"""Step-DPO: its rule written down once more over random trees, and its judges of single steps."""

import re

import pytest
from conftest import byte_level_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted, searching, write_task

from align import plans, recipes
from align.errors import AlignError
from align.trees import ROOT, Node, PreferenceTree
from data_pipelines.thought_trees.asks import together
from data_pipelines.thought_trees.edges import EdgeRules, with_first_error_edges
from data_pipelines.thought_trees.judges import Candidate, JudgeSettings, Level, find_judge
from data_pipelines.thought_trees.step_judges import TEMPLATE
from data_pipelines.thought_trees.tasks import Question, load_task


@st.composite
def judged_trees(draw):
    """Trees of any shape; steps are right (above 0), wrong (0 and below), or nobody could judge them."""
    count = draw(st.integers(1, 20))
    values = st.sampled_from([None, -1.0, 0.0, 0.25, 1.0])
    nodes = tuple(Node(f"t{i}\n", draw(st.integers(-1, i - 1)), (i + 5,), draw(values), complete=False) for i in range(count))
    gold = draw(st.lists(st.integers(0, count - 1), max_size=4, unique=True))
    return PreferenceTree("q\n", nodes, prompt_token_ids=(3, 4), id="q", metadata={"search": {"kept": [], "gold_nodes": gold}})


def by_the_paper(tree, threshold=0.0, gold=False):
    """Every whole chain of steps is read from its start: its first step that is not right, if it is wrong, loses to each right step that
    goes on from the same right steps (section 3.1: s_1..s_{k-1} are kept, s_lose is the first wrong step, s_win a right one)."""

    def right(node):
        return tree.nodes[node].score is not None and tree.nodes[node].score > threshold

    chains = [tree.path(node) for node in range(len(tree.nodes))]
    reaches_gold = {node for leaf in tree.metadata["search"]["gold_nodes"] for node in tree.path(leaf)}
    pairs = set()
    for chain in chains:
        errors = [place for place, node in enumerate(chain) if not right(node)]
        if not errors or tree.nodes[chain[errors[0]]].score is None:
            continue
        prefix, lose = chain[: errors[0]], chain[errors[0]]
        for other in chains:
            if other[:-1] == prefix and right(other[-1]) and (not gold or other[-1] in reaches_gold):
                pairs.add((other[-1], lose))
    return pairs


@given(judged_trees(), st.sampled_from([-1.0, 0.0, 0.5]), st.sampled_from(["judged", "gold"]))
def test_the_first_wrong_step_loses_to_the_right_steps_after_the_same_right_steps(tree, threshold, paths):
    made = with_first_error_edges(tree, EdgeRules(form="first_errors", right_above=threshold, paths=paths))
    pairs = [(edge.chosen, edge.rejected) for edge in made.edges]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == by_the_paper(tree, threshold, paths == "gold")


@given(judged_trees(), st.integers(1, 2))
def test_gap_cap_and_weight_hold_for_first_wrong_steps(tree, cap):
    every = by_the_paper(tree)
    apart = {(e.chosen, e.rejected) for e in with_first_error_edges(tree, EdgeRules(min_gap=1.0)).edges}
    assert apart == {(c, r) for c, r in every if tree.nodes[c].score - tree.nodes[r].score >= 1.0}
    made = with_first_error_edges(tree, EdgeRules(cap=cap, weight="thought")).edges
    assert {(e.chosen, e.rejected) for e in made} <= every
    for chosen in {c for c, _ in every}:
        weights = [e.weight for e in made if e.chosen == chosen]
        assert len(weights) == min(cap, sum(c == chosen for c, _ in every))
        assert sum(weights) == pytest.approx(1.0)


SUM = Question("q", {"problem": "7+6+8+3"}, ("24",))


def level_of(task, paths, question=SUM, steps=None):
    """A level of paths as texts, as the search shows it to a judge."""
    encode = byte_level_tokenizer()
    candidates = tuple(
        Candidate(n, ROOT, path, tuple(encode("".join(path))["input_ids"]), len(path) == (steps or task.steps))
        for n, path in enumerate(paths)
    )
    prompt = task.question.format(**question.fields)
    return Level(question, prompt, tuple(encode(prompt)["input_ids"]), len(paths[0]), candidates)


def judged(name, task, level, engine=None, **settings):
    """What a judge says of a level, whose needs an engine answers."""
    judge = find_judge(name)(JudgeSettings(task, **settings))
    result = dict(together({"q": judge.judge(level)}, engine))["q"] if engine else _alone(judge.judge(level))
    if isinstance(result, AlignError):
        raise result
    return result


def _alone(judging):
    with pytest.raises(StopIteration) as end:
        next(judging)
    return end.value.value


def test_steps_are_judged_by_the_tasks_own_checker():
    sums = load_task("sums")
    values = [j.value for j in judged("steps", sums, level_of(sums, [("7+6=13\n",), ("7+6=12\n",), ("nonsense\n",)]))]
    assert values == [1.0, 0.0, 0.0]
    last = level_of(sums, [("7+6=13\n", "13+8=21\n", "21+3=24\n"), ("7+6=13\n", "13+8=21\n", "21+3=25\n")])
    assert [j.value for j in judged("steps", sums, last)] == [1.0, 0.0]
    game = load_task("game24")
    paths = [("4 * 5 = 20 (left: 6 10 20)\n",), ("4 * 5 = 20 (left: 6 20)\n",)]
    assert [j.value for j in judged("steps", game, level_of(game, paths, Question("g", {"numbers": "4 5 6 10"}, ("24",))))] == [1.0, 0.0]


@pytest.fixture
def told(tmp_path):
    """A task whose steps no checker can see."""
    return load_task(write_task(tmp_path))


ASKED = Question("q", {"question": "how much is 2+2"}, ("4",))


def test_steps_that_no_checker_sees_are_judged_by_the_model_and_the_majority_decides(told):
    def say(context):
        step = re.search(r"The last step:\n(.*)\n", context).group(1)
        return {
            "good": ["It holds.\nVerdict: right", "Hm.\nVerdict: wrong", "Yes.\n**Verdict: Right.**"],
            "bad": ["Verdict: wrong", "Verdict: right", "no verdict"],
            "odd {step}": ["who knows", "Verdict: maybe", ""],
        }[step]

    level = level_of(told, [("good\n",), ("bad\n",), ("odd {step}\n",)], ASKED)
    found = judged("steps", told, level, Scripted(say), votes=3)
    assert [j.value for j in found] == [1.0, 0.0, None]
    assert [j.unreadable for j in found] == [0, 1, 3]
    assert all(j.calls == 1 and j.tokens > 0 for j in found[:2])


def test_a_model_is_shown_the_question_the_steps_before_and_the_last_one(told):
    shown = []
    level = level_of(told, [("one\n", "two\n")], ASKED, steps=3)
    judged("steps", told, level, Scripted(lambda context: shown.append(context) or ["Verdict: right"]), votes=1)
    places = {"{question}": "Question: how much is 2+2", "{before}": "one", "{step}": "two"}
    assert shown[0] == re.sub("|".join(map(re.escape, places)), lambda m: places[m.group()], TEMPLATE)


def test_a_step_is_right_where_some_completions_come_right_and_wrong_where_all_go_wrong(told):
    ends = {"good": ["the answer is 4\n", "the answer is 5\n"], "bad": ["the answer is 5\n", "no idea\n"]}
    level = level_of(told, [("good\n",), ("bad\n",)], ASKED)
    engine = Scripted(lambda context: ends[context.split("\n")[1]])
    found = judged("answer", told, level, engine, votes=4)
    assert [(j.value, j.details["right"]) for j in found] == [(0.5, 2), (0.0, 0)]
    final = level_of(told, [("good\n", "the answer is 4\n"), ("good\n", "the answer is 5\n")], ASKED)
    assert [j.value for j in judged("answer", told, final)] == [1.0, 0.0]


def test_a_search_that_answers_judge_gives_the_papers_pairs(tmp_path):
    def say(context):
        if "go" not in context:
            return ["go left\n", "go right\n", "go round\n"]
        return ["the answer is 4\n", "the answer is 5\n"] if "left" in context else ["the answer is 5\n"]

    task = write_task(tmp_path)
    engine = Scripted(say)
    judge = find_judge("answer")(JudgeSettings(load_task(task), votes=2))
    tree = dict(together({"q": searching(engine, judge, task, thoughts=3, keep=3)}, engine))["q"]
    pairs = [(tree.nodes[e.chosen].text, tree.nodes[e.rejected].text) for e in with_first_error_edges(tree, EdgeRules(paths="gold")).edges]
    assert sorted(pairs) == [("go left\n", "go right\n"), ("go left\n", "go round\n"), ("the answer is 4\n", "the answer is 5\n")]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("steps", {"modle": "m"}, "there is no options.modle: did you mean 'model'"),
        ("steps", {"engine": "vllm"}, "options.engine is of another model than the one searched with: name options.model"),
        ("steps", {"template": "no.txt"}, "options.template 'no.txt': no such file"),
        ("answer", {"model": "m"}, "there is no options.model: it has no options"),
    ],
)
def test_options_of_step_judges_are_checked(told, name, options, message):
    with pytest.raises(AlignError, match=message):
        find_judge(name)(JudgeSettings(told, options=options))


def test_another_models_engine_is_set_up_as_the_recipe_says():
    more = ["rollouts.engine=vllm", "resources.tensor_parallel=4", "rollouts.options={max_model_len: 99}", "thoughts.judge.name=steps"]
    for options, expected in (("{}", {}), ("{model: m, engine: vllm}", {"tensor_parallel": 4, "engine_options": {"max_model_len": 99}})):
        planned = plans.stages_of(recipes.load("micro/cpo", ["variants={}", *more, f"thoughts.judge.options={options}"]))
        search = next(stage for stage in planned if "judge" in stage.settings)
        found = search.settings["judge"]["options"]
        assert found.items() >= expected.items()
        assert found.keys() - {"model", "engine"} == expected.keys()


def test_what_step_judges_cannot_do_is_said(told, tmp_path):
    with pytest.raises(AlignError, match="completions that `answer` samples would all be the same"):
        find_judge("answer")(JudgeSettings(told, temperature=0.0))
    with pytest.raises(AlignError, match="needs a gold answer"):
        judged("answer", told, level_of(told, [("good\n",)], Question("q", ASKED.fields)), Scripted(lambda context: ["x"]))
    with pytest.raises(AlignError, match="take the judge 'steps'"):
        find_judge("llm")
    (tmp_path / "template.txt").write_text("{question} {step}")
    with pytest.raises(AlignError, match=r"there is no \{before\} in it"):
        find_judge("steps")(JudgeSettings(told, options={"template": str(tmp_path / "template.txt")}))
    with pytest.raises(AlignError, match="right_above is of no use with form: steps"):
        recipes.load("micro/cpo", ["thoughts.edges.right_above=1.0"])
