"""The job scripts as they are written, on a real Slurm with two nodes."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cluster
import pytest
import torch
import yaml
from conftest import align, needs_vllm

from data_pipelines.rollouts.protocol import Request, Sampling
from data_pipelines.rollouts.server_engine import ServerEngine

sys.path += [str(Path(__file__).parents[1] / name) for name in ("distributed", "rounds")]
import spread
import tiny

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"
pytestmark = [
    pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.skipif(cluster.missing() is not None, reason=str(cluster.missing())),
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        own = {
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "PYTHONPATH": str(SCRIPTS.parents[1]),
            "HOME": str(tmp_path_factory.mktemp("home")), "ALIGN_PROCESSES_PER_NODE": "1", "ALIGN_ADDRESS": "127.0.0.1",
        }  # fmt: skip
        yield {**spread.environment(), **environment, **own}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    spread.write_inputs(folder)
    return folder


def recipe(folder, name, mode="ddp"):
    """The recipe that the tests of distribution use, with its accelerate configuration."""
    path = spread.write_recipe(folder, name)
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"resources": {"accelerate": str(spread.on_cpu(folder, mode))}}))
    return path


@pytest.fixture(scope="module")
def whole(folder):
    """What the training leads to, on one machine."""
    found = spread.train(spread.on_cpu(folder, "ddp"), spread.write_recipe(folder, "whole"))
    assert found.returncode == 0, found.stderr[-2000:]
    return spread.weights(folder / "whole")


def sbatch(environment, folder, script, *arguments, options=()):
    command = ["sbatch", "--parsable", *options, str(SCRIPTS / script), *map(str, arguments)]
    environment = {**environment, "ALIGN_SLURM_HOME": str(SCRIPTS)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def log(folder, job):
    return next(folder.glob(f"*-{job}.log")).read_text()


def same(found, expected):
    return all(torch.allclose(tensor, expected[name], atol=1e-6) for name, tensor in found.items())


def until_checkpoint(folder, name, job, environment):
    while not (folder / name / "checkpoint-7/trainer_state.json").exists():
        assert cluster.state(job, environment) in ("PENDING", "CONFIGURING", "RUNNING"), log(folder, job)
        time.sleep(0.05)


@pytest.mark.parametrize("mode", ["ddp", pytest.param("zero2", marks=pytest.mark.exhaustive)])
def test_a_training_over_two_nodes_is_that_of_one_machine(mode, slurm, folder, whole):
    job = sbatch(slurm, folder, "train.sbatch", recipe(folder, f"nodes-{mode}", mode), options=["--nodes=2"])
    assert cluster.wait(job, slurm) == "COMPLETED", log(folder, job)
    assert "0: " in log(folder, job)
    assert "1: " in log(folder, job), "lines say which node they come from"
    found = spread.weights(folder / f"nodes-{mode}")
    assert all(torch.allclose(tensor, whole[name], atol=1e-4) for name, tensor in found.items())


def test_a_requeued_job_goes_on(slurm, folder, whole):
    """As near the time limit: Slurm warns the batch script; the training saves a checkpoint and ends, and the job queues again."""
    job = sbatch(slurm, folder, "train.sbatch", recipe(folder, "requeued"), options=["--nodes=2"])
    until_checkpoint(folder, "requeued", job, slurm)
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=slurm, check=True)
    while "queues again" not in log(folder, job):
        time.sleep(0.2)
    while cluster.state(job, slurm) in ("COMPLETING", "PENDING"):
        subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], env=slurm, check=False)  # not only after two minutes
        time.sleep(1)
    assert cluster.wait(job, slurm) == "COMPLETED", log(folder, job)
    stopped = re.search(r"asked to stop at step (\d+) of 20: a checkpoint is saved", log(folder, job))
    assert stopped, log(folder, job)
    assert int(stopped[1]) > 7, "nothing was saved between the two checkpoints that would have been there anyway"
    assert "queues again" in log(folder, job)
    assert "start 2" in log(folder, job)
    assert same(spread.weights(folder / "requeued"), whole)


@pytest.mark.exhaustive
def test_a_cancelled_job_goes_on_when_submitted_again(slurm, folder, whole):
    path = recipe(folder, "cancelled")
    job = sbatch(slurm, folder, "train.sbatch", path, options=["--nodes=2"])
    until_checkpoint(folder, "cancelled", job, slurm)
    subprocess.run(["scancel", job], env=slurm, check=True)
    assert cluster.wait(job, slurm) == "CANCELLED"
    assert not (folder / "cancelled/model.safetensors").exists()
    again = sbatch(slurm, folder, "train.sbatch", path, options=["--nodes=2"])
    assert cluster.wait(again, slurm) == "COMPLETED", log(folder, again)
    assert same(spread.weights(folder / "cancelled"), whole)


def test_the_node_that_failed_is_named(slurm, folder):
    path = recipe(folder, "failed")
    job = sbatch(slurm, folder, "train.sbatch", path, "model.name_or_path=/nowhere", options=["--nodes=1", "--nodelist=second"])
    assert cluster.wait(job, slurm) == "FAILED"
    assert "model.name_or_path '/nowhere'" in log(folder, job)
    assert "align: node second: the training ended with status" in log(folder, job)


def test_a_partition_that_does_not_exist_is_named(slurm, folder):
    path = recipe(folder, "partition")
    found = align("slurm", path, "--gpus", "0", "--submit", env={**slurm, "SBATCH_PARTITION": "mian"})
    assert found.returncode == 2
    assert "there is no partition 'mian' (SBATCH_PARTITION): did you mean 'main'?" in found.stderr


def test_a_chain_samples_in_arrays_and_trains_in_between(slurm, tmp_path):
    """`align slurm --submit`: two rounds, each with an array of four shards, two at a time, merged by the job that follows."""
    models = tiny.write_models(tmp_path)
    (tmp_path / "alone").mkdir()
    alone = align("run", tiny.write_recipe(tmp_path / "alone", models), cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert alone.returncode == 0, alone.stderr
    (tmp_path / "chain").mkdir()
    path = tiny.write_recipe(tmp_path / "chain", models)
    found = align("slurm", path, "--gpus", "0", "--shards", "4", "--at-once", "2", "--submit", env=slurm, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    jobs = dict(line.removeprefix("job ").split(": ") for line in found.stdout.splitlines() if line.startswith("job "))
    assert [name.split()[0] for name in jobs.values()] == ["rollouts", "run", "rollouts", "run"]
    assert cluster.wait(list(jobs)[-1], slurm, 900) == "COMPLETED", "\n".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert len(list(tmp_path.glob(f"align-rollouts-{next(iter(jobs))}_*.log"))) == 4
    for number in (1, 2):
        one, other = (spread.weights(tmp_path / name / f"run/round-{number}/train/model") for name in ("alone", "chain"))
        assert same(one, other)


@needs_vllm
def test_a_server_serves_other_jobs_until_it_is_cancelled(slurm, tmp_path, base_folder):
    """Behind a runner, as it would stand behind a container's; the address is there as long as it answers."""
    runner = tmp_path / "runner"
    runner.write_text('#!/bin/sh\necho "run: $1 $2 $3"\nexec "$@"\n')
    runner.chmod(0o755)
    options = ("--dtype", "float32", "--max-model-len", "256", "--enforce-eager")
    job = sbatch({**slurm, "ALIGN_RUNNER": str(runner), "VLLM_CPU_KVCACHE_SPACE": "1"}, tmp_path, "server.sbatch", base_folder, *options)
    address = tmp_path / f"align-server-{job}.url"
    while not address.exists():
        assert cluster.state(job, slurm) in ("PENDING", "CONFIGURING", "RUNNING"), log(tmp_path, job)
        time.sleep(0.5)
    assert "run: python -m vllm" in log(tmp_path, job)
    engine = ServerEngine(base_folder, address.read_text().strip())
    (found,) = engine.generate([Request("one", "What is", 2, 0)], Sampling(8, temperature=1.0))
    assert len(found.completions) == 2
    subprocess.run(["scancel", job], env=slurm, check=True)
    assert cluster.wait(job, slurm, 60) == "CANCELLED"
    assert not address.exists()
