"""Whole runs of DICE and SELM on a tiny random model: what each round computes, what a kill costs, what a mistake says."""

import json
import shutil
import signal
import subprocess
import sys
import time
from statistics import mean

import numpy as np
import pytest
import torch
from conftest import align, kill_at_random, open_page
from kill_run import stage_processes
from tiny import OTHERS, WORDS, load, logps_of, write_models, write_recipe

from align import recipes
from align.estimate import TOKEN_BYTES, Workload, estimate
from align.trees import read_trees
from data_pipelines.rollouts.samples import read_samples
from eval.report import gather, page

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dice")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """A run that nothing disturbed: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = align("run", write_recipe(folder, models))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def test_the_estimates_tokens_are_those_of_the_run(finished, models):
    """Given the run's mean lengths, `align estimate` counts the tokens that were sampled and trained on, and the disk they take."""
    run = finished[0]
    recipe = recipes.load(str(run / "recipe.yaml"))
    trees, _ = read_trees(run / "round-1/filter/trees.jsonl")
    lengths = [len(node.token_ids) for tree in trees for node in tree.nodes]
    prompts = [len(tree.prompt_token_ids) for tree in trees]
    workload = Workload(gpus=1, prompts=len(trees), prompt_tokens=round(mean(prompts)), response_tokens=round(mean(lengths)))
    found = estimate(recipe, workload, str(models / "policy"))
    assert found.stages["sample"][0] == pytest.approx(sum(lengths), rel=0.05)
    trained = [json.loads(line) for line in (run / "round-1/train/log.jsonl").read_text().splitlines()]
    assert found.stages["train"][0] == pytest.approx(max(entry.get("num_tokens", 0) for entry in trained), rel=0.15)
    written = sum(
        path.stat().st_size for name in ("sample", "filter", "score", "pair") for path in (run / "round-1" / name).rglob("*.jsonl")
    )
    assert 0.3 < written / sum(lengths) / TOKEN_BYTES < 3


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_shows_every_round_and_the_monitor(width, finished, browser):
    opened = open_page(browser, finished[0] / "report.html", width)
    assert opened.locator("h1").inner_text() == "run: DICE"
    for name in ("training loss", "3D monitor, round-1/train", "shaped rewards, run", "lengths of pairs, round-2"):
        assert opened.get_by_role("img", name=name).count() == 1, name
    assert opened.get_by_role("cell", name="round-2", exact=True).count() == 1


def test_a_report_says_what_is_missing_and_shows_the_rest(finished, tmp_path):
    """Every file that it reads, taken away or ruined in one of two ways, one at a time."""
    whole = page([gather(finished[0])])
    assert "Not in this report" not in whole
    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("*.safetensors", "checkpoints"))
    names = ("manifest.json", "statistics.json", "scored.jsonl", "pairs.jsonl", "log.jsonl", "three_d.jsonl", "recipe.yaml")
    read = [file for name in names for file in run.rglob(name)]
    assert len(read) > 20
    for number, file in enumerate(read):
        content = file.read_bytes()
        ruined = (None, content[: len(content) // 2] + b"\x00{", b"[3]")[number % 3]
        if ruined is None and file.name == "recipe.yaml":
            continue  # then it is no run's folder
        file.unlink() if ruined is None else file.write_bytes(ruined)
        found = gather(run)
        assert found.missing, f"{file} is ruined, and the report does not say so"
        text = page([found])
        assert "Not in this report" in text
        assert "What was run" in text
        file.write_bytes(content)
    assert page([gather(run)]).count("<svg") == whole.count("<svg")


def test_every_stage_leaves_what_the_next_one_needs(finished):
    run, printed = finished
    for number in (1, 2):
        for stage in ("sample", "filter", "score", "pair", "train"):
            assert (run / f"round-{number}" / stage / "manifest.json").exists()
            assert f"round-{number}/{stage}" in printed
        assert (run / f"round-{number}" / "train" / "model" / "model.safetensors").exists()
        assert not (run / f"round-{number}" / "train" / "checkpoints").exists()
        steps = [json.loads(line)["step"] for line in (run / f"round-{number}" / "train" / "three_d.jsonl").read_text().splitlines()]
        assert steps == list(range(7))
    assert not list(run.rglob("*.tmp"))


def test_each_round_samples_from_the_model_that_the_last_one_trained(finished, models):
    run, _ = finished
    old = load(models / "policy")
    for number, model in ((1, old), (2, load(run / "round-1" / "train" / "model"))):
        for tree in read_samples(run / f"round-{number}" / "sample" / "samples"):
            for node in tree.nodes:
                torch.testing.assert_close(torch.tensor(node.metadata["logps"]), logps_of(model, tree, node), atol=1e-4, rtol=0)
    assert max((torch.tensor(n.metadata["logps"]) - logps_of(old, tree, n)).abs().max() for n in tree.nodes) > 0.1


def test_rewards_are_implicit_rewards_of_policy_over_the_model_before(finished, models):
    run, _ = finished
    before = [load(models / "reference"), load(models / "policy"), load(run / "round-1" / "train" / "model")]
    for number in (1, 2):
        trees, _ = read_trees(run / f"round-{number}" / "pair" / "scored.jsonl")
        assert len(trees) == len(WORDS)
        statistics = json.loads((run / f"round-{number}" / "pair" / "statistics.json").read_text())
        assert statistics["agreement"]["largest"] < 1e-4
        for tree in trees:
            for node in tree.nodes:
                expected = logps_of(before[number], tree, node).sum() - logps_of(before[number - 1], tree, node).sum()
                assert node.metadata["reward"] == pytest.approx(expected.item(), abs=1e-3)
                assert node.score == pytest.approx(node.metadata["reward"] - statistics["alpha"] * len(node.text.strip()), abs=1e-9)


def test_pairs_are_best_over_worst_and_no_prompt_comes_twice(finished):
    run, _ = finished
    scored = {tree.id: tree for tree in read_trees(run / "round-1" / "pair" / "scored.jsonl")[0]}
    pairs, _ = read_trees(run / "round-1" / "pair" / "pairs.jsonl")
    assert len({tree.prompt for tree in pairs}) == len(pairs)
    generated = [tree for tree in pairs if tree.id in scored]
    assert len(generated) == len(scored)
    replayed = {tree.prompt for tree in pairs if tree.id not in scored}
    assert len(replayed) == 2  # a fifth of ten
    assert replayed < {f"What of {word}?" for word in OTHERS}
    for tree in generated:
        scores = [node.score for node in scored[tree.id].nodes]
        chosen, rejected = (tree.nodes[getattr(tree.edges[0], end)].score for end in ("chosen", "rejected"))
        assert (chosen, rejected) == (max(scores), min(scores))


def test_a_second_start_does_nothing_and_status_says_so(finished, models):
    run, _ = finished
    again = align("run", write_recipe(run.parent, models))
    assert again.stdout.count("done already") == 10
    status = align("status", run)
    assert status.stdout.count("done") == 10
    assert align("run", write_recipe(run.parent, models), "--dry-run").stdout.count("done") == 10


def test_a_change_re_runs_what_depends_on_it(finished, models, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    plan = align(
        "run", write_recipe(tmp_path, models), "--dry-run", "training.learning_rate=1e-3", f"training.output_dir={tmp_path}/run"
    ).stdout
    states = [line.split()[1] for line in plan.splitlines() if line.strip().startswith("round-")]
    assert states == ["done"] * 4 + ["to"] + ["to"] * 5
    logged = align("run", write_recipe(tmp_path, models), "--dry-run", "training.logging_steps=3").stdout
    assert logged.count("done") == 10


def test_a_training_killed_after_it_saved_its_model_is_not_done_again(finished, models, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "round-2" / "train" / "manifest.json").unlink()
    weights = tmp_path / "run" / "round-2" / "train" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    done = align("run", write_recipe(tmp_path, models))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("done already") == 9
    assert weights.stat().st_mtime_ns == before


def bytes_of(run):
    names = [f"round-{n}/{part}" for n in (1, 2) for part in ("pair/pairs.jsonl", "pair/flat.jsonl", "train/model/model.safetensors")]
    return {name: (run / name).read_bytes() for name in names}


def test_killed_at_random_points_it_ends_with_the_same_pairs_and_weights(models, tmp_path):
    """SIGKILL to the driver, to the stage's process, or to both; then the same command again."""
    assert "all 8 files the same to the byte" in kill_at_random(write_recipe(tmp_path, models), tmp_path / "runs", 2)


def test_sigterm_ends_it_within_ten_seconds_and_the_same_command_goes_on(finished, models, tmp_path):
    recipe = write_recipe(tmp_path, models)
    for stage in ("round-1/sample", "round-1/train"):
        process = subprocess.Popen(
            [sys.executable, "-m", "align.cli", "run", str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not (tmp_path / "run" / stage / "stage.json").exists():
            time.sleep(0.2)
            assert process.poll() is None, process.communicate()
        time.sleep(3.0)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, errors = process.communicate()
        assert time.monotonic() - began < 10
        assert process.returncode == 143
        assert "run the same command to go on" in errors
        assert not stage_processes(tmp_path)
    assert align("run", recipe).returncode == 0
    assert bytes_of(tmp_path / "run") == bytes_of(finished[0])


@pytest.mark.exhaustive
def test_selm_with_adapters_processes_and_a_launcher_trains_on_a_third_response_of_the_policy(models, tmp_path):
    scorers = [{"name": "length", "options": {"per_character": 1.0}}, {"name": "implicit", "weight": 0.5}]
    changes = {
        "rounds__exploration": "policy",
        "rounds__reference_samples": 3,
        "rounds__prompts": "split",
        "rounds__scorers": scorers,
        "training__loss_type": ["selm"],
    }
    changes |= {"model__lora": {"r": 4, "dropout": 0.0}, "resources__processes": 2, "resources__accelerate": "cpu"}
    recipe = write_recipe(tmp_path, models, **changes)
    done = align("run", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "round-1" / "train" / "adapter" / "adapter_model.safetensors").exists()
    prompts = []
    for number in (1, 2):
        trees, _ = read_trees(tmp_path / "run" / f"round-{number}" / "pair" / "pairs.jsonl")
        mine = [tree for tree in trees if len(tree.nodes) == 3]
        assert len(mine) == 4
        prompts += [tree.prompt for tree in mine]
        before, policy = (load(models / "reference"), load(models / "policy"))
        if number == 2:
            before, policy = policy, load(tmp_path / "run" / "round-1" / "train" / "model")
        for stage, model, count in (("explore", policy, 1), ("sample-reference", before, 3)):
            for tree in read_samples(tmp_path / "run" / f"round-{number}" / stage / "samples"):
                assert len(tree.nodes) == count
                drawn = torch.tensor(tree.nodes[0].metadata["logps"])
                torch.testing.assert_close(drawn, logps_of(model, tree, tree.nodes[0]), atol=1e-4, rtol=0)
        _check_combined_rewards(tmp_path / "run" / f"round-{number}", before, policy)
    assert len(set(prompts)) == len(WORDS)


def _check_combined_rewards(folder, before, policy):
    """Rewards of the round from its samples and the reference's alone: u = log σ(r − 0.85-quantile), implicit rewards times β."""
    references = {tree.id: tree for tree in read_samples(folder / "sample-reference" / "samples")}

    def rewards(tree):
        ratios = [(logps_of(policy, tree, node).sum() - logps_of(before, tree, node).sum()).item() for node in tree.nodes]
        return np.array([len(node.text) for node in tree.nodes], dtype=float), 0.1 * np.array(ratios)

    for tree in read_trees(folder / "pair" / "scored.jsonl")[0]:
        wanted = np.zeros(len(tree.nodes))
        for weight, ours, theirs in zip((1.0, 0.5), rewards(tree), rewards(references[tree.id]), strict=True):
            wanted -= weight * np.log1p(np.exp(-(ours - np.quantile(theirs, 0.85))))
        assert [node.metadata["reward"] for node in tree.nodes] == pytest.approx(wanted.tolist(), abs=1e-3)


def test_a_full_disk_is_one_sentence_and_loses_nothing(models, tmp_path):
    """A file system too small to begin with, then one that the checkpoints fill, then one that is large enough."""
    (tmp_path / "disk").mkdir()
    recipe = write_recipe(tmp_path, models, training__output_dir=str(tmp_path / "disk" / "run"))
    run = f"{sys.executable} -m align.cli run {recipe} --until round-1/train; echo status $?"
    larger = [f"mount -o remount,size={size} {tmp_path}/disk; {run}" for size in ("2500k", "100m")]
    script = f"mount -t tmpfs -o size=400k none {tmp_path}/disk && ({run}; {'; '.join(larger)})"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=300
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert "GB free, but 2 model(s) and a checkpoint need about" in done.stderr
    assert "align: round-1/train: No space left on device: make room, then run the same command to go on" in done.stderr
    assert "Traceback" not in done.stderr.split("No space left")[0]
    _, first, second = done.stdout.split("status 2")
    assert "round-1/sample       done in" in first
    assert "round-1/sample       done already" in second
    assert "status 0" in second
