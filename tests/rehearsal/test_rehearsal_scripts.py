"""What is written in a rehearsal: later stages must be able to use it, and the engine's own samples must stand beside it."""

import json
from types import SimpleNamespace

import pytest
import yaml
from conftest import byte_level_tokenizer, random_model

from align import recipes
from align.errors import AlignError
from align.plans import stages_of
from align.rehearsal.scripts import script_of
from align.runs import External, Output, Stage, Task
from data_pipelines.code_execution.extraction import program_of
from data_pipelines.code_execution.problems import read_problems
from data_pipelines.code_execution.sandbox import Sandbox
from data_pipelines.rollouts.prompts import prompt_id
from data_pipelines.rollouts.protocol import Request, Sampling
from data_pipelines.rollouts.samples import read_samples
from data_pipelines.rollouts.scripted_engine import Script, ScriptedEngine
from data_pipelines.rollouts.stages import sample
from data_pipelines.rollouts.transformers_engine import TransformersEngine
from data_pipelines.thought_trees.tasks import available_tasks, load_task, read_questions
from data_pipelines.thought_trees.thoughts import thought_of

SAMPLE, SEARCH = "data_pipelines.rollouts.stages:sample", "data_pipelines.thought_trees.stages:search_questions"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model_folder):
    return TransformersEngine(model_folder, dtype="float32")


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def completions(engine, script, id, prompt, n=4):
    (rollout,) = ScriptedEngine(engine, script).generate([Request(id, prompt, n, seed=3)], Sampling(6))
    return rollout


def test_the_first_of_several_samples_is_the_models_own_and_the_others_are_written(engine):
    script = Script({"p": ["Yes.", "No, not at all."]})
    own = completions(engine, Script(), "p", "Is it?")
    mixed = completions(engine, script, "p", "Is it?")
    assert mixed.completions[0] == own.completions[0]
    assert {completion.text for completion in mixed.completions[1:]} == {"Yes.", "No, not at all."}
    assert all(c.token_ids[-1] == engine.tokenizer.eos_token_id and c.finish_reason == "stop" for c in mixed.completions[1:])
    assert completions(engine, script, "p", "Is it?", n=1).completions[0].token_ids == own.completions[0].token_ids
    assert completions(engine, script, "another", "Is it?").completions[1].finish_reason == "length"


def test_written_responses_have_no_log_probs_that_a_scorer_could_take_for_a_samplers(model_folder, tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": "Is it?"}])
    Script({prompt_id("Is it?"): ["Yes.", "No."]}).write(tmp_path / "script.json")
    recipe = {
        "model": {"name_or_path": str(model_folder), "reference": str(model_folder), "dtype": "float32"}, "data": {"train": prompts},
        "rollouts": {"prompts": prompts, "samples": 4, "max_new_tokens": 6}, "rounds": {"filter": {"min_responses": 2}},
    }  # fmt: skip
    stage = next(stage for stage in stages_of(recipes.parse(recipe, "recipe")) if stage.function == SAMPLE)
    options = {"engine": "transformers", "options": {}, "script": str(tmp_path / "script.json")}
    settings = {**stage.settings, "engine": {**stage.settings["engine"], "engine": "scripted", "options": options}}
    sample(Task(stage.name, tmp_path, settings, {"model": str(model_folder), "prompts": prompts}))
    (tree,) = read_samples(tmp_path / "samples")
    assert [("logps" in node.metadata, node.metadata["finish_reason"]) for node in tree.nodes] == [(True, "length"), *[(False, "stop")] * 3]


@pytest.mark.parametrize("name", [name for name in available_tasks() if load_task(name).examples])
def test_every_task_gets_thoughts_of_each_step_and_last_ones_that_state_answers(engine, name, tmp_path):
    task = load_task(name)
    example = task.examples[0]
    record = {column: example.fields[field] for field, column in task.data.fields.items()}
    if task.data.gold:
        record[task.data.gold] = f"It is so.\n#### {example.answer}" if task.data.gold_pattern else example.answer
    source = write(tmp_path / "questions.jsonl", [record])
    (question,) = read_questions(task, source)
    settings = {"task": name, "source": {"split": "train", "limit": 1}}
    script = script_of(Stage("search", SEARCH, settings, {"questions": External(source)}), [])
    prompt = engine.prompt_ids("Question")
    path: tuple[int, ...] = ()
    for step in range(task.steps):
        scripted = ScriptedEngine(engine, script)
        scripted._asked[question.id] = len(prompt)
        written = scripted._written(SimpleNamespace(id=f"{question.id}/{step - 1}", prompt_token_ids=prompt + path))
        assert [completion.text for completion in written] == script.thoughts[question.id][step]
        thoughts = [thought_of(completion, task, engine.tokenizer) for completion in written]
        assert all(thought.whole for thought in thoughts)
        path += thoughts[0].token_ids
    assert all(task.canonical(thought.text, question) is not None for thought in thoughts)
    judged = scripted._written(SimpleNamespace(id=f"{question.id}/judge/0", prompt_token_ids=prompt))
    assert [completion.text for completion in judged] == list(script.judgements)


def test_of_a_thought_that_is_begun_for_the_model_the_rest_is_written(engine):
    script = Script(thoughts={"q": [["Step 1: We look."], ["Step 2: So the answer is: 7.", "It is 8."]]})
    scripted, prompt = ScriptedEngine(engine, script), engine.prompt_ids("Question: how many?\n")
    first = scripted._written(SimpleNamespace(id="q/-1", prompt_token_ids=prompt))
    begun = prompt + first[0].token_ids + engine.prompt_ids("Step 2: So the answer is:")
    written = scripted._written(SimpleNamespace(id="q/0", prompt_token_ids=begun))
    assert [completion.text for completion in written] == [" 7.", "It is 8."]


def test_a_task_without_examples_gets_a_last_thought_that_it_can_read(tmp_path):
    task = {
        "description": "Sums.", "data": {"fields": {"sum": "sum"}, "gold": "result"}, "question": "{sum}\n", "steps": 2,
        "answer": r"answer is (.+)\.$", "grader": {"name": "number"},
    }  # fmt: skip
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    source = write(tmp_path / "questions.jsonl", [{"sum": "12 + 30", "result": "42"}])
    settings = {"task": str(tmp_path / "task.yaml"), "source": {"split": "train", "limit": 1}}
    (steps,) = script_of(Stage("search", SEARCH, settings, {"questions": External(source)}), []).thoughts.values()
    assert len(steps) == 2
    assert any("42" in text for text in steps[-1])


PROBLEMS = {
    "with a solution": {
        "task_id": 3, "text": "Write a function to double.", "code": "def twice(n):\r\n    return 2 * n", "test_list": ["assert twice(2) == 4"],
        "test_setup_code": "", "challenge_test_list": [],
    },
    "whole programs without one": {
        "question": "Double it.", "input_output": json.dumps({"inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]}), "difficulty": "easy",
    },
    "functions without one": {
        "question": "Double it.", "input_output": json.dumps({"fn_name": "twice", "inputs": [[2], [5]], "outputs": [4, 10]}),
        "starter_code": "def twice(n):",
    },
    "methods without one": {
        "question": "Double it.", "input_output": json.dumps({"fn_name": "twice", "inputs": [[2], [5]], "outputs": [4, 10]}),
        "starter_code": "class Solution:\n    def twice(self, n: int) -> int:",
    },
}  # fmt: skip


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.slow
def test_of_the_programs_to_a_problem_one_passes_and_others_do_not(name, chat, tmp_path):
    source = write(tmp_path / "problems.jsonl", [PROBLEMS[name]])
    reading = {"format": "auto", "split": "train", "limit": 4}
    choosing = Stage("problems", "choose", {"source": reading, "tests_from": None, "chat": chat}, {"problems": External(source)})
    sampling = Stage("sample", SAMPLE, {}, {"prompts": Output("problems", "prompts.jsonl")})
    script = script_of(sampling, [choosing, sampling])
    (problem,) = read_problems(source, "train")
    (answers,) = script.responses.values()
    with Sandbox("limits-only", 1) as sandbox:
        verdicts = [sandbox.run(program_of(answer, problem, chat), problem.tests).passed for answer in answers]
    assert verdicts == [True, False, False]


def test_problems_of_which_no_solution_is_known_cannot_be_rehearsed(tmp_path):
    source = write(tmp_path / "problems.jsonl", [{"prompt": "Write `twice(n)`.", "tests": "assert twice(2) == 4"}])
    reading = {"format": "auto", "split": "train", "limit": 4}
    choosing = Stage("problems", "choose", {"source": reading, "tests_from": None, "chat": True}, {"problems": External(source)})
    sampling = Stage("sample", SAMPLE, {}, {"prompts": Output("problems", "prompts.jsonl")})
    with pytest.raises(AlignError, match="has a solution"):
        script_of(sampling, [choosing, sampling])


def test_prompts_get_their_own_responses_and_those_without_their_neighbours(tmp_path):
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A poet."}]
    pairs = [
        {"prompt": "Who?", "chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "Nobody."}]},
        {"prompt": "When?", "chosen": "In 1848.", "rejected": "Never, I think."},
    ]
    settings = {"source": {"split": "train", "limit": 8, "column": "prompt"}}
    stage = Stage("sample", SAMPLE, settings, {"prompts": External(write(tmp_path / "pairs.jsonl", pairs))})
    assert script_of(stage, []).responses[prompt_id("Who?")][:2] == ["A poet.", "Nobody."]
    stage = Stage("sample", SAMPLE, settings, {"prompts": External(write(tmp_path / "prompts.jsonl", [{"prompt": "Where?"}]))})
    assert len(script_of(stage, []).responses[prompt_id("Where?")]) > 1


@pytest.mark.parametrize("name", ["cpo/qwen2.5-7b-gsm8k", "irpo/qwen2.5-7b-gsm8k", "step-dpo/qwen2.5-7b-gsm8k"])
def test_the_plan_of_a_recipe_that_asks_questions_gets_scripts(name, tmp_path):
    """From the stages as they are planned, settings and all."""
    rows = [{"question": f"How much is {n} and {n}?", "answer": f"#### {2 * n}"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [f"rollouts.prompts={tmp_path}/rows.jsonl", f"measure.0.data={tmp_path}/rows.jsonl", "rollouts.engine=transformers"]
    stages = stages_of(recipes.load(name, overrides))
    scripts = {stage.name: script for stage in stages if (script := script_of(stage, stages)) is not None}
    assert {stage.name for stage in stages if stage.function in (SAMPLE, SEARCH)} == set(scripts)


def test_completions_and_verdicts_of_steps_are_written_so_that_some_steps_are_right(engine):
    script = Script(thoughts={"q": [["First."], ["So the final answer is 4.", "So the final answer is 5."]]}, markers=["\n"])
    texts = {c.text for c in completions(engine, script, "q/answer/3", "Is it?", n=5).completions[1:]}
    assert texts == {"So the final answer is 4.", "So the final answer is 5."}
    verdicts = {c.text.split("\n")[-1] for c in completions(engine, script, "q/steps/3", "Is it?", n=5).completions[1:]}
    assert verdicts == {"Verdict: right", "Verdict: wrong"}
