"""Whole runs of code preferences on a tiny model that writes right, wrong and broken programs: what each stage leaves, what a mistake says."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from conftest import align, align_here, kill_at_random, open_page

from align.trees import pairs_from_tree, read_trees
from data_pipelines.code_execution.edges import EdgeRules, with_edges
from data_pipelines.micro.scratch import character_tokenizer, train_from_scratch
from data_pipelines.rollouts.samples import read_samples

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("code")]
ROOT = Path(__file__).parent.parent.parent
COUNT = 8


def record(number):
    return {
        "id": f"p{number}", "prompt": f"add {number}\n", "tests": f"assert f(1) == {number + 1}\nassert f(-{number}) == 0\nassert f(0) == {number}",
        "entry_point": "f", "solution": f"def f(x): return x+{number}",
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Answers `add n` with a right program, one that subtracts, or one that does not parse."""
    folder, rng = tmp_path_factory.mktemp("model"), random.Random(0)
    tokenizer = character_tokenizer("dfx0123456789 :()+-\n", ["add", "def", "return"])
    data = []
    for _ in range(1600):
        n = rng.randrange(1, COUNT + 2)
        data.append((f"add {n}\n", rng.choice([f"def f(x): return x+{n}", f"def f(x): return x-{n}", f"def f(x) return x+{n}"])))
    train_from_scratch(
        tokenizer, data, seed=0, batch_size=32, hidden_size=32, layers=2, heads=2, learning_rate=1e-2, label="coder"
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_recipe(folder, model):
    def write(name, records):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        return str(folder / f"{name}.jsonl")

    problems = [record(n) for n in range(1, COUNT + 1)]
    problems[6] = {**problems[6], "solution": "def f(x): return 0"}  # set aside: its own solution fails
    recipe = {
        "model": {"name_or_path": str(model), "dtype": "float32"},
        "rollouts": {
            "prompts": write("problems", problems), "prompts_split": "train", "samples": 12, "temperature": 1.0, "max_new_tokens": 24, "batch": 48
        },
        "code": {"decontaminate": [write("benchmark", [record(2)])], "pairs": 6, "pairing": "closest", "sandbox": {"seconds": 2.0}},
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "bf16": False,
            "report_to": "none", "gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 1, "monitor_3d": False, "seed": 3,
            "disable_tqdm": True, "logging_steps": 1,
        },
        "measure": [{"suite": "code", "data": write("test", [record(1), record(9)]), "samples": 4, "pass_at": [1, 2, 10]}],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A run that nothing disturbed: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = align("run", write_recipe(folder, model))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_shows_verdicts_and_programs_side_by_side(width, finished, browser):
    page = open_page(browser, finished[0] / "report.html", width)
    assert page.locator("h1").inner_text() == "run: code preferences"
    assert page.get_by_role("cell", name="syntax_error", exact=True).count() == 1
    pair = page.locator("details.pair").first
    assert not pair.locator("pre.rejected").is_visible()
    pair.locator("summary").click()
    assert pair.locator("pre.chosen mark").inner_text() != pair.locator("pre.rejected mark").inner_text()
    assert page.locator("#samples pre").count() >= 2
    assert "GB" in page.locator("#costs").inner_text()


def read(run, *path):
    return json.loads((run / Path(*path)).read_text())


def lines(run, *path):
    return [json.loads(line) for line in (run / Path(*path)).read_text().splitlines()]


def test_a_run_samples_executes_trains_and_measures_before_and_after(finished):
    run, printed = finished
    for stage in ("start/code/evaluate", "problems", "sample", "execute", "pair", "train", "code/evaluate"):
        assert (run / stage / "manifest.json").exists()
        assert stage in printed
    for stage in ("start/code/evaluate", "code/evaluate"):
        metrics = read(run, stage, "metrics.json")
        assert set(metrics) == {"pass@1", "parses", "truncated", "harness_errors", "sampled pass@1", "sampled pass@2", "problems"}
    assert "sampled pass@2" in printed


def test_what_is_left_out_of_the_training_problems_is_reported(finished):
    run, _ = finished
    left_out = {one["problem"]: one["reason"] for one in read(run, "problems", "decontamination.json")["left_out"]}
    assert left_out == {"p1": "same id", "p2": "same id"}
    assert lines(run, "problems", "set-aside.jsonl") == [
        {"where": "p7", "reason": "its own solution does not pass its tests: wrong_answer"}
    ]
    assert [one["id"] for one in lines(run, "problems", "problems.jsonl")] == ["p3", "p4", "p5", "p6", "p8"]


def test_every_program_is_saved_with_its_verdict_and_edges_join_pass_and_fail(finished):
    run, _ = finished
    trees, rejected = read_trees(run / "pair" / "programs.jsonl")
    assert not rejected
    assert len(trees) == 5
    for tree in trees:
        assert len(tree.nodes) == 12
        assert tree.metadata["problem"].startswith("p")
        assert tree.metadata["isolation"] in ("namespaces", "filters", "limits")
        assert len(tree.edges) <= 6
        for node in tree.nodes:
            n = int(tree.prompt.split()[1])
            if str(node.text) == f"def f(x): return x+{n}":
                assert (node.metadata["verdict"], node.score) == ("pass", 1.0)
            if str(node.text) == f"def f(x): return x-{n}":
                assert (node.metadata["verdict"], node.score) == ("wrong_answer", 0.0)
            if "f(x) return" in str(node.text):
                assert node.metadata["verdict"].startswith("syntax_error")
        ends = [(tree.nodes[edge.chosen].metadata, tree.nodes[edge.rejected].metadata) for edge in tree.edges]
        assert all(better["verdict"] == "pass" and worse["verdict"] != "pass" for better, worse in ends)
        assert all(one["same_as"] is None for pair in ends for one in pair)
    statistics = read(run, "pair", "statistics.json")
    assert statistics["programs"] == 60
    assert statistics["edges"] == sum(len(tree.edges) for tree in trees) > 0
    assert sum(statistics["verdicts"].values()) == 60
    trained, _ = read_trees(run / "pair" / "pairs.jsonl")
    assert lines(run, "pair", "flat.jsonl") == [pair for tree in trained for pair in pairs_from_tree(tree)]


def test_samples_are_read_by_the_benchmarks_own_tools(finished):
    run, _ = finished
    greedy, sampled = lines(run, "code/evaluate", "samples.jsonl"), lines(run, "code/evaluate", "samples-4.jsonl")
    written = lines(run, "code/evaluate", "responses.jsonl")
    assert [one["program"] for one in written if one["kind"] == "greedy"] == [one["solution"] for one in greedy]
    assert all(one["response"] and one["verdict"] for one in written)
    assert (len(greedy), len(sampled)) == (2, 8)
    assert all(set(one) == {"task_id", "completion", "solution"} for one in greedy + sampled)
    results = lines(run, "code/evaluate", "samples_results.jsonl")
    assert all(one["passed"] == (one["result"] == "passed") for one in results)


def test_show_draws_programs_with_their_shares(finished):
    run, _ = finished
    shown = align("show", run / "pair" / "programs.jsonl", "--first", 1)
    assert shown.returncode == 0
    assert "beats" in shown.stdout


def test_killed_at_random_points_it_ends_with_the_same_programs_and_weights(model, tmp_path):
    path = write_recipe(tmp_path, model)
    recipe = yaml.safe_load(path.read_text())
    del recipe["measure"]  # whose two stages would take most of the time
    path.write_text(yaml.safe_dump(recipe))
    assert "the same to the byte" in kill_at_random(path, tmp_path / "runs", 1)


MISTAKES = {
    "policy": (["code.pairing=closets"], "code.pairing is 'closets': did you mean 'closest'"),
    "format": (["code.format=humanevil"], "code.format is 'humanevil': did you mean 'humaneval'"),
    "isolation": (["code.sandbox.isolation=strong"], "code.sandbox.isolation is 'strong'"),
    "greedy": (["rollouts.temperature=0"], "rollouts.temperature is 0"),
    "other suite": (["measure.0.suite=sums"], "measure.0: data is of no use with the suite 'sums'"),
    "no problems": (["rollouts.prompts=none.jsonl"], "none.jsonl"),
    "no benchmark": (["code.decontaminate=[none.jsonl]"], "code.decontaminate 'none.jsonl': no such file"),
    "hook": (["code.tests_from=nobody:makes"], "code.tests_from: 'nobody:makes': expected 'module:name'"),
    "package": (["code.sandbox.packages=[nothing_here]"], "programs are to import 'nothing_here', which is not installed here"),
    "misspelt": (["code.pars=3"], "code.pars is not a key: did you mean 'pairs'"),
    "two methods": (["thoughts.task=gsm8k"], "thoughts and code: a recipe has one of them"),
    "a key of other rounds": (["rounds.replay=0.3"], "rounds.replay is of no use with `code`"),
}


def test_rounds_go_around_programs(model, tmp_path):
    """Each round samples from the model that the round before trained, with other draws, for the problems that were chosen once."""
    done = align("run", write_recipe(tmp_path, model), "rounds.count=2", "rounds.overrides=[{}, {rollouts.temperature: 0.9}]")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"^(\S+) +done in", done.stdout, re.MULTILINE) == [
        "start/code/evaluate", "problems",
        *(f"round-{n}/{stage}" for n in (1, 2) for stage in ("sample", "execute", "pair", "train", "code/evaluate")),
    ]  # fmt: skip
    run = tmp_path / "run"
    specification = {n: json.loads((run / f"round-{n}/sample/stage.json").read_text()) for n in (1, 2)}
    assert specification[1]["inputs"]["model"] == str(model)
    assert specification[2]["inputs"]["model"] == str(run / "round-1/train/model")
    assert [specification[n]["settings"]["sampling"]["temperature"] for n in (1, 2)] == [1.0, 0.9]
    samples = [[node.text for tree in read_samples(run / f"round-{n}/sample/samples") for node in tree.nodes] for n in (1, 2)]
    assert samples[0] != samples[1]
    assert "1 of 1" in done.stdout or "0 of 1" in done.stdout  # better than the start, after the last round
    report = (run / "report.html").read_text()
    assert "iterated code preferences" in report
    assert "Not in this report" not in report


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_recipe_is_one_sentence_before_anything_runs(name, model, tmp_path):
    overrides, sentence = MISTAKES[name]
    done = align_here("run", write_recipe(tmp_path, model), *overrides)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert sentence in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def judged(finished):
    return read_trees(finished[0] / "pair" / "programs.jsonl")[0]


def test_policies_choose_the_pairs_they_name(judged):
    mixed = [tree for tree in judged if len(with_edges(tree, EdgeRules()).edges) > 1]
    assert mixed
    for tree in mixed:
        every = {(edge.chosen, edge.rejected) for edge in with_edges(tree, EdgeRules()).edges}
        for policy in ("random", "closest", "hardest", "focus"):
            first = with_edges(tree, EdgeRules(policy, pairs=1)).edges
            assert len(first) == 1
            assert (first[0].chosen, first[0].rejected) in every
        (closest,) = with_edges(tree, EdgeRules("closest", pairs=1)).edges
        text = tree.nodes[closest.rejected].metadata["program"]
        assert text.count("(") == 1  # x-n or the missing colon differ by one character; what else the model wrote by more
        again = with_edges(tree, EdgeRules("random", pairs=1, seed=1)).edges
        assert again == with_edges(tree, EdgeRules("random", pairs=1, seed=1)).edges
    ranked = with_edges(mixed[0], EdgeRules(min_gap=0.5)).edges
    assert all(mixed[0].nodes[e.chosen].score - mixed[0].nodes[e.rejected].score >= 0.5 for e in ranked)


PROGRAM = "def add(a, b):\n    return a + b\n"
EXEC = {
    "pass": (PROGRAM, "t.py", "assert add(1, 2) == 3\nassert add(0, 0) == 0", [], 0, "pass: 2 of 2 tests pass"),
    "fail": (PROGRAM, "t.py", "assert add(1, 2) == 3\nassert add(0, 0) == 1", [], 1, "wrong_answer: 1 of 2 tests pass"),
    "calls": (PROGRAM, "t.json", '{"calls": [[[1, 2], 3]]}', ["--entry-point", "add"], 0, "pass: 1 of 1"),
    "outputs": ("print(input())", "t.json", '{"outputs": [["a", "a"], ["b", "c"]]}', [], 1, "wrong_answer: 1 of 2"),
    "no entry point": (PROGRAM, "t.json", '{"calls": [[[1, 2], 3]]}', [], 2, "the problem has no entry point"),
    "no parse": (PROGRAM, "t.py", "assert add(1, 2 == 3", [], 2, "t.py: the tests do not parse: '(' was never closed, line 1"),
    "no test": (PROGRAM, "t.py", "add(1, 2)", [], 2, "t.py: the tests have no assertion"),
    "no json": (PROGRAM, "t.json", "{", [], 2, "t.json: not JSON"),
    "no python": (
        PROGRAM,
        "t.py",
        "assert add(1, 2) == 3",
        ["--python", "/no/python"],
        2,
        "there is no Python interpreter at '/no/python'",
    ),
    "close": ("print(2 / 3)", "t.json", '{"outputs": [["", "0.666667"]]}', [], 0, "pass: 1 of 1 tests pass"),
    "not exact": ("print(2 / 3)", "t.json", '{"outputs": [["", "0.666667"]]}', ["--tolerance", "0"], 1, "wrong_answer: 0 of 1 tests pass"),
    "its own tolerance": ("print(0.67)", "t.json", '{"outputs": [["", "0.666667"]], "tolerance": 0.01}', [], 0, "pass: 1 of 1 tests pass"),
    "no tolerance": (
        PROGRAM,
        "t.py",
        "assert add(1, 2) == 3",
        ["--tolerance", "-1"],
        2,
        "the tolerance is -1.0: expected a number from 0 on",
    ),
    "a package": (
        "import numpy as np\ndef f(): return np.ones(2)",
        "t.py",
        "import numpy as np\nassert (f() == np.ones(2)).all()",
        ["--packages", "numpy"],
        0,
        "pass: 1 of 1 tests pass",
    ),
    "a package that the tests lack": (PROGRAM, "t.py", "import numpy\nassert add(1, 2) == 3", [], 1, "harness_error(import_error: numpy)"),
    "isolation": (PROGRAM, "t.py", "assert add(1, 2) == 3", ["--isolation", "require-storng"], 2, "did you mean 'require-strong'?"),
}


@pytest.mark.parametrize("name", EXEC)
def test_align_exec(name, tmp_path):
    program, file, tests, more, status, sentence = EXEC[name]
    (tmp_path / "p.py").write_text(program)
    (tmp_path / file).write_text(tests)
    done = align("exec", tmp_path / "p.py", "--tests", tmp_path / file, *more)
    assert done.returncode == status, done.stderr
    assert sentence in " ".join((done.stdout + done.stderr).split())
    assert (status == 2) == bool(done.stderr)


def test_align_exec_without_a_program(tmp_path):
    done = align("exec", tmp_path / "none.py", "--tests", tmp_path / "none.py")
    assert (done.returncode, done.stderr) == (2, f"align: {tmp_path / 'none.py'}: No such file or directory\n")


def test_doctor_names_the_isolation():
    done = align("doctor")
    assert "sandbox" in done.stdout
    assert "programs run" in done.stdout
