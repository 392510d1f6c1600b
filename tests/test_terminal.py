"""What the command line shows: help with an example of each command, and of a run its first line, its course, and what came out."""

import argparse
import json
import re

import pytest
import yaml
from conftest import align, align_here, byte_level_tokenizer, random_model

from align import cli, plans, recipes
from align.runs.stage import Task, write_specification
from align.summary import first_line, last_line

COMMANDS = next(a for a in cli.parser_of_commands()._actions if isinstance(a, argparse._SubParsersAction)).choices


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained_with_an_example_that_it_takes(name):
    example = re.search(rf"Example:\s+align {name}\b(.*)", COMMANDS[name].description, re.DOTALL)
    assert example is not None
    assert cli.parse([name, *example[1].split()]).name == name
    assert name in align_here("--help").stdout


def test_commands_are_grouped():
    shown = align_here("--help").stdout
    for title in cli.PURPOSES:
        assert f"\n{title}:\n" in shown


@pytest.mark.parametrize("words", [["-q", "status", "x"], ["status", "x", "--quiet"], ["status", "-v", "x"]])
def test_quiet_and_verbose_stand_before_the_command_or_after_it(words):
    options = cli.parse(words)
    assert (options.quiet, options.verbose) == ("-v" not in words, "-v" in words)
    assert str(options.folder) == "x"


@pytest.mark.parametrize("words", [["list"], ["list", "losses"], ["recipes"]])
def test_what_scripts_read_is_json(words):
    found = json.loads(align_here(*words, "--json").stdout)
    assert all(isinstance(sentence, str) and sentence for sentence in found.values())
    assert len(found) > 5


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder with the run of a short training, and what the command printed."""
    folder = tmp_path_factory.mktemp("ran")
    random_model().save_pretrained(folder / "start")
    byte_level_tokenizer().save_pretrained(folder / "start")
    rows = [{"prompt": f"What is {i}?", "chosen": f" It is {i}.", "rejected": " Who knows, and who cares?"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"output_dir": str(folder / "run"), "max_steps": 4, "bf16": False, "report_to": "none", "max_length": 40}
    training |= {"monitor_3d": False, "logging_steps": 2, "learning_rate": 1e-3}
    content = {"model": {"name_or_path": str(folder / "start"), "dtype": "float32"}, "data": {"train": str(folder / "pairs.jsonl")}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**content, "training": training}))
    return folder, align("run", folder / "recipe.yaml")


@pytest.mark.slow
def test_off_a_terminal_a_run_is_lines(ran):
    folder, done = ran
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        f"{folder / 'run'}: training on preferences (sigmoid), model {folder / 'start'}, data {folder / 'pairs.jsonl'}, 4 steps, 1 stage"
    )
    assert lines[1] == "[1/1] train begins"
    assert [line.partition(",")[0] for line in lines if ": step " in line] == ["train: step 2 of 4", "train: step 4 of 4"]
    assert "\r" not in done.stdout + done.stderr
    assert not [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert max(map(len, lines[:-1])) < 400
    last = lines[-1]
    assert re.match(r"8 pairs, 4 steps, \d+ s; loss 0\.\d\d → 0\.\d\d; pairs ranked right \d+% → \d+%; model: ", last)
    assert f"report: {folder / 'run' / 'report.html'}" in last
    command = last.partition("next: align ")[2].split()
    assert align_here(*command, "--prompt", "What is 2?", "--max-new-tokens", 3).returncode == 0
    again = align("-q", "run", folder / "recipe.yaml")
    assert "done already" not in again.stdout
    assert "8 pairs, 4 steps" in again.stdout


@pytest.mark.slow
def test_the_status_of_a_run_as_json_and_while_it_runs(ran):
    folder, _ = ran
    (run,) = json.loads(align_here("status", folder / "run", "--json").stdout)
    assert run["running"] is False
    assert [(row["stage"], row["state"]) for row in run["stages"]] == [("train", "done")]
    assert run["stages"][0]["seconds"] > 0


def test_a_running_stage_says_how_far_it_is_and_since_when(tmp_path):
    recipe = recipes.parse(
        {"model": {"name_or_path": "m"}, "data": {"train": "owner/pairs"}, "training": {"output_dir": str(tmp_path)}}, "recipe"
    )
    (run,) = plans.runs_of(recipe)
    assert first_line(run).endswith("training on preferences (sigmoid), model m, data owner/pairs, 3 epochs, 1 stage")
    assert last_line(run) == ""
    plans.write_recipe(run)
    state = plans_state(run)
    (tmp_path / "train").mkdir()
    write_specification(Task("train", tmp_path / "train", {}, {}), "x:y", state.key)
    (tmp_path / "train" / "progress-0-of-1.json").write_text('{"done": 12, "total": 40, "unit": "steps", "loss": 0.5}')
    with run.folder.locked():
        (shown,) = json.loads(align_here("status", tmp_path, "--json").stdout)
        text = align_here("status", tmp_path).stdout
    assert shown["running"]
    row = shown["stages"][0]
    assert (row["state"], row["progress"]["done"], row["progress"]["more"]) == ("running", 12, {"loss": 0.5})
    assert re.search(r"train\s+running\s+12 of 40 steps, loss 0.50, \d+ s", text)


def plans_state(run):
    """Where the run's first stage stands."""
    from align.runs import assess

    return assess(run.stages, run.folder)[0]
