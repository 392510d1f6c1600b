"""Whole runs of DICE and SELM on a tiny random model: what each round computes, what a kill costs, what a mistake says."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, needs_vllm, random_model, small_llama
from transformers import AutoModelForCausalLM

from align.trees import read_trees
from data_pipelines.rollouts.samples import read_samples

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
WORDS = ["apples", "answers", "sums", "questions", "courses", "looks", "sees", "leaves"]


def align(*arguments, **options):
    command = [sys.executable, "-m", "align.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


def write_recipe(folder, models, **changes):
    rows = [
        {"prompt": f"What of {word}?", "chosen": " It is five.", "rejected": " It is six, of course."} for word in [*WORDS[:6], "nothing"]
    ]
    (folder / "offline.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"What of {word}?"}) + "\n" for word in WORDS))
    recipe = {
        "model": {"name_or_path": str(models / "policy"), "reference": str(models / "reference"), "dtype": "float32"},
        "data": {"train": str(folder / "offline.jsonl")},
        "rollouts": {"prompts": str(folder / "prompts.jsonl"), "samples": 6, "max_new_tokens": 16, "batch": 12, "chat": False, "temperature": 0.9},
        "rounds": {"count": 2, "replay": 0.1, "filter": {"drop_truncated": False, "min_characters": 1, "min_responses": 3}},
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "bf16": False,
            "report_to": "none", "gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 1, "monitor_prompts": 2,
            "monitor_max_new_tokens": 4, "logging_steps": 1, "seed": 3, "disable_tqdm": True,
        },
    }  # fmt: skip
    for key, value in changes.items():
        section, name = key.split("__")
        recipe.setdefault(section, {})[name] = value
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("policy", 0), ("reference", 1)):
        random_model(seed=seed).save_pretrained(folder / name)
        byte_level_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """A run that nothing disturbed: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = align("run", write_recipe(folder, models))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logps_of(model, tree, node):
    ids = torch.tensor([list(tree.prompt_token_ids) + list(node.token_ids)])
    start = len(tree.prompt_token_ids)
    with torch.no_grad():
        return model(ids).logits.log_softmax(-1)[0, start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]


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
                assert node.score == pytest.approx(node.metadata["reward"] - statistics["alpha"] * len(node.text), abs=1e-9)


def test_pairs_are_best_over_worst_and_no_prompt_comes_twice(finished):
    run, _ = finished
    scored = {tree.id: tree for tree in read_trees(run / "round-1" / "pair" / "scored.jsonl")[0]}
    pairs, _ = read_trees(run / "round-1" / "pair" / "pairs.jsonl")
    assert len({tree.prompt for tree in pairs}) == len(pairs)
    generated = [tree for tree in pairs if tree.id in scored]
    assert len(generated) == len(scored)
    assert [tree.prompt for tree in pairs if tree.id not in scored] == ["What of nothing?"]
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
    import shutil

    shutil.copytree(finished[0], tmp_path / "run")
    plan = align(
        "run", write_recipe(tmp_path, models), "--dry-run", "training.learning_rate=1e-3", f"training.output_dir={tmp_path}/run"
    ).stdout
    states = [line.split()[1] for line in plan.splitlines() if line.strip().startswith("round-")]
    assert states == ["done"] * 4 + ["to"] + ["to"] * 5
    logged = align("run", write_recipe(tmp_path, models), "--dry-run", "training.logging_steps=3").stdout
    assert logged.count("done") == 10


def bytes_of(run):
    names = [f"round-{n}/{part}" for n in (1, 2) for part in ("pair/pairs.jsonl", "pair/flat.jsonl", "train/model/model.safetensors")]
    return {name: (run / name).read_bytes() for name in names}


def test_killed_at_twenty_random_points_it_ends_with_the_same_pairs_and_weights(models, tmp_path):
    """SIGKILL to the driver, to the stage's process, or to both; then the same command again."""
    command = [
        sys.executable,
        ROOT / "scripts" / "kill_run.py",
        write_recipe(tmp_path, models),
        "--kills",
        20,
        "--folder",
        tmp_path / "runs",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills" in done.stdout
    assert "all 8 files the same to the byte" in done.stdout


def workers(folder):
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_text()
            if str(folder) in words and "align.runs.worker" in words:
                found.append(int(entry.name))
    return found


def test_sigterm_ends_it_within_ten_seconds_and_the_same_command_goes_on(finished, models, tmp_path):
    recipe = write_recipe(tmp_path, models)
    for pause in (6.0, 14.0, 20.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "align.cli", "run", str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, errors = process.communicate()
        assert time.monotonic() - began < 10
        assert process.returncode == 143
        assert "run the same command to go on" in errors
        assert not workers(tmp_path)
    assert align("run", recipe).returncode == 0
    assert bytes_of(tmp_path / "run") == bytes_of(finished[0])


def test_selm_with_adapters_processes_and_a_launcher_trains_on_a_third_response_of_the_reference(models, tmp_path):
    scorers = [{"name": "length", "options": {"per_character": 1.0}}, {"name": "implicit", "weight": 0.5}]
    changes = {"rounds__exploration": "reference", "rounds__prompts": "split", "rounds__scorers": scorers, "training__loss_type": ["selm"]}
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
        reference = load(models / "reference") if number == 1 else load(models / "policy")
        for tree in read_samples(tmp_path / "run" / f"round-{number}" / "explore" / "samples"):
            torch.testing.assert_close(
                torch.tensor(tree.nodes[0].metadata["logps"]), logps_of(reference, tree, tree.nodes[0]), atol=1e-4, rtol=0
            )
    assert len(set(prompts)) == len(WORDS)


def test_a_full_disk_is_one_sentence_and_loses_nothing(models, tmp_path):
    """A file system of 400 kB that is made larger after the failure."""
    (tmp_path / "disk").mkdir()
    recipe = write_recipe(tmp_path, models, training__output_dir=str(tmp_path / "disk" / "run"))
    run = f"{sys.executable} -m align.cli run {recipe} --until round-1/train"
    script = f"mount -t tmpfs -o size=400k none {tmp_path}/disk && ({run}; echo status $?; mount -o remount,size=100m {tmp_path}/disk; {run}; echo status $?)"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=300
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert "status 2" in done.stdout
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    first, second = done.stdout.split("status 2")
    assert "round-1/sample       done in" in first
    assert "round-1/sample       done already" in second
    assert "status 0" in second


MISTAKES = {
    "missing model": (["model.name_or_path=./nowhere"], "model.name_or_path './nowhere': there is no model in this folder"),
    "missing reference": (["model.reference=null"], "model.reference is missing: implicit rewards"),
    "missing prompts": (["rollouts.prompts=none.jsonl"], "rollouts.prompts 'none.jsonl': no such file"),
    "unknown scorer": (["rounds.scorers=[{name: implicid}]"], "there is no scorer 'implicid': did you mean 'implicit'"),
    "unknown pairing": (["rounds.pairing=best_wurst"], "did you mean 'best_worst'"),
    "unknown stage": (["--until", "round-1/pear"], "there is no such stage: did you mean 'round-1/pair'"),
    "too many wanted": (["rounds.filter.min_responses=9"], "rounds.filter.min_responses is 9, but only 6 are sampled"),
    "greedy": (["rollouts.temperature=0"], "samples above 1 at temperature 0"),
    "none valid": (["rounds.filter.max_characters=1"], "none of 8 prompts has 3 valid responses"),
    "loss without leaf": (["training.loss_type=[selm]"], "belong together"),
    "no server": (["rollouts.engine=server", "rollouts.url=http://127.0.0.1:9"], "no OpenAI-compatible server answers"),
    "nobody logged in": (["training.report_to=wandb"], "nobody is logged in"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(name, models, tmp_path):
    arguments, message = MISTAKES[name]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | {"HOME": str(tmp_path)}
    done = align("run", write_recipe(tmp_path, models), *arguments, env=environment)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("align: ")


def test_a_reference_with_another_tokenizer_is_refused_before_the_start(models, tmp_path):
    random_model(seed=1).save_pretrained(tmp_path / "other")
    other = byte_level_tokenizer()
    other.add_tokens(["nonsense"])
    vocabulary = json.loads(other.backend_tokenizer.to_str())
    vocabulary["model"]["vocab"] = {token: 399 - index for token, index in vocabulary["model"]["vocab"].items()}
    vocabulary["added_tokens"] = []
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(vocabulary))
    done = align("run", write_recipe(tmp_path, models), f"model.reference={tmp_path / 'other'}")
    assert done.returncode == 2
    assert "has another tokenizer than the policy" in done.stderr
    assert not (tmp_path / "run" / "round-1").exists()


@needs_vllm
@pytest.mark.xdist_group("vllm")
def test_with_vllm_each_round_is_served_by_the_new_weights(tmp_path):
    for name, seed in (("policy", 0), ("reference", 1)):
        small_llama(seed).save_pretrained(tmp_path / "models" / name)
        byte_level_tokenizer().save_pretrained(tmp_path / "models" / name)
    changes = {"rollouts__engine": "vllm", "rollouts__options": {"max_model_len": 128}}
    done = align("run", write_recipe(tmp_path, tmp_path / "models", **changes), "--until", "round-2/score", "training.max_steps=3")
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    old, new = load(tmp_path / "models" / "policy"), load(run / "round-1" / "train" / "model")
    for tree in read_samples(run / "round-2" / "sample" / "samples"):
        for node in tree.nodes:
            drawn = torch.tensor(node.metadata["logps"])
            torch.testing.assert_close(drawn, logps_of(new, tree, node), atol=1e-4, rtol=0)
            assert (drawn - logps_of(old, tree, node)).abs().max() > 0.01
