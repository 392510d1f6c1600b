"""Which jobs a recipe becomes; tests/slurm runs them."""

import importlib.util
import os

import pytest

from align import recipes
from align.errors import AlignError
from align.runs.launch import over_nodes
from align.slurm import Job, Machine, jobs_of, submit, write


def names(recipe, machine):
    return [(job.script.removesuffix(".sbatch"), *job.options) for job in jobs_of(recipes.load(recipe), machine)]


def test_the_jobs_of_a_recipe():
    assert names("dpo/llama3-8b", Machine()) == [("train",)]
    assert names("dice/llama3-8b", Machine(4)) == [("run",)]
    chain = [("rollouts",), ("run", "--until", "round-1/train"), ("rollouts",), ("run",)]
    assert names("dice/llama3-8b", Machine(4, shards=64)) == chain
    array, run, *_ = jobs_of(recipes.load("dice/llama3-8b"), Machine(4, shards=64))
    assert array.asks == ("--array=0-63%16", "--gpus-per-node=1")
    assert run.asks == ("--nodes=4", "--gpus-per-node=8")
    assert names("code/qwen2.5-coder-7b-mbpp", Machine(shards=8)) == [("run", "--until", "problems"), ("rollouts",), ("run",)]


def test_deepspeed_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = str(recipes.RECIPES / "accelerate/zero3.yaml")
    with pytest.raises(
        AlignError, match=r"zero3.yaml needs DeepSpeed, which is not installed: pip install 'align-preferences\[deepspeed\]'"
    ):
        over_nodes(config, "align.train", ["recipe"], {})


def test_an_engine_over_several_gpus_gets_them_all():
    spread = recipes.load("dice/llama3-8b", ["resources.tensor_parallel=2", "rollouts.options={pipeline_parallel_size: 2}"])
    array, *_ = jobs_of(spread, Machine(shards=4))
    assert array.asks == ("--array=0-3%16", "--gpus-per-node=4")


@pytest.mark.parametrize(
    ("recipe", "machine", "message"),
    [
        ("micro/dpo-3d", Machine(), "resources.accelerate is missing"),
        ("micro/dpo-3d", Machine(shards=4), "several variants or seeds"),
        ("dpo/llama3-8b", Machine(shards=4), "this recipe samples nothing"),
        ("dpo/llama3-8b", Machine(shards=0), "--shards 0: expected 1 or more"),
        ("dpo/llama3-8b", Machine(nodes=0), "--nodes 0: expected 1 or more"),
    ],
)
def test_what_cannot_be_submitted_is_said(recipe, machine, message):
    with pytest.raises(AlignError, match=message):
        jobs_of(recipes.load(recipe), machine)


def test_training_on_other_nodes_starts_in_the_container_too():
    job = {"SLURM_JOB_NUM_NODES": "2", "ALIGN_RUNNER": "apptainer exec --nv 'my align.sif'"}
    command = over_nodes("zero2.yaml", "align.train", ["recipe"], job)
    assert command[0] == "srun"
    assert command[command.index("--label") + 1 :][:4] == ["apptainer", "exec", "--nv", "my align.sif"]


@pytest.mark.parametrize("name", ["plain", "two\nlines; touch pwned", "a 'quoted' \"name\"", "$(touch pwned) `touch pwned`", "äöü ✓", "-x"])
def test_any_name_of_a_recipe_and_of_its_overrides_reaches_slurm_as_it_is(name, tmp_path, monkeypatch):
    """The script is run by bash, with a program in the place of sbatch that writes down what it is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/bash\nprintf "%s\\0" "$@" >> asked\necho 7\n')
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("ALIGN_SLURM_SETTINGS", "none")
    script = write(
        [Job("run.sbatch", ("--nodes=1",), ("--until", name)), Job("run.sbatch", ())], [name, f"training.run_name={name}"], tmp_path
    )
    assert submit(script).splitlines()[-1] == "job 7: run"
    asked = (tmp_path / "asked").read_text().split("\0")
    assert asked.count(name) == 3
    assert asked.count(f"training.run_name={name}") == 2
    assert not (tmp_path / "pwned").exists()
