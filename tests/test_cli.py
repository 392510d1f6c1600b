"""The command line in real subprocesses: what it prints, and one clear sentence with exit status 2 for a mistake."""

import json
import subprocess
import sys

import pytest
import yaml
from conftest import align, align_here, byte_level_tokenizer, random_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(model_folder, tmp_path):
    rows = [{"prompt": f"What is {i}?", "chosen": f" It is {i}.", "rejected": " Who knows, and who cares?"} for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"},
        "data": {"train": str(tmp_path / "pairs.jsonl")},
        "training": {"output_dir": str(tmp_path / "run"), "max_steps": 2, "bf16": False, "report_to": "none", "max_length": 40},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_train_trains_and_saves_a_model(recipe, tmp_path):
    done = align("train", recipe, "training.learning_rate=1e-3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert (tmp_path / "run" / "three_d.jsonl").exists()
    assert "better than start" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(recipe, tmp_path):
    """Four trees of 1 to 4 edges in one step: two ranks with unequal edges take the step that one process takes."""
    with open(tmp_path / "trees.jsonl", "w") as out:
        for i in range(1, 5):
            nodes = [{"text": f" It is {i}."}, *({"text": f" No, it is {j}, or {j + i}."} for j in range(i))]
            out.write(
                json.dumps({"prompt": f"What is {i}?", "nodes": nodes, "edges": [{"chosen": 0, "rejected": j + 1} for j in range(i)]})
                + "\n"
            )
    histories = {}
    for processes, batch in ((1, 4), (2, 2), (2, 1)):
        folder = tmp_path / f"run-{processes}-{batch}"
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]  # on a free port
        command = [sys.executable, "-m", *launcher, "align.train", str(recipe), f"data.train={tmp_path}/trees.jsonl"]
        settings = {"output_dir": folder, "per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // (processes * batch)}
        settings |= {"logging_steps": 1, "learning_rate": 0.1, "optim": "sgd", "max_steps": 3, "save_steps": 3, "max_grad_norm": 0.0}
        done = subprocess.run([*command, *(f"training.{k}={v}" for k, v in settings.items())], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, [line for line in done.stderr.splitlines() if "align:" in line] or done.stderr[-3000:]
        state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
        histories[processes, batch] = [(e["loss"], e["rewards/margins"]) for e in state["log_history"] if "loss" in e]
    assert histories[1, 4][-1][0] < 0.69
    for history in histories.values():
        assert history == [pytest.approx(step, rel=1e-3, abs=1e-6) for step in histories[1, 4]]


MISTAKES = {
    "no recipe": (["train", "nowhere.yaml"], "nowhere.yaml: no such recipe"),
    "misspelt key": (["train", "RECIPE", "training.lerning_rate=1"], "training.lerning_rate is not a key: did you mean 'learning_rate'?"),
    "unknown loss": (["train", "RECIPE", "training.loss_type=[sigmoit]"], "unknown loss 'sigmoit': did you mean 'sigmoid'?"),
    "no data": (["train", "RECIPE", "data.train=none.jsonl"], "data.train 'none.jsonl': no such file"),
    "no model": (["train", "RECIPE", "model.name_or_path=./nowhere"], "model.name_or_path './nowhere'"),
    "short max_length": (["train", "RECIPE", "training.max_length=3"], "pairs.jsonl line 1): `prompt` has"),
    "override without value": (["train", "RECIPE", "training.beta"], "expected key.path=value"),
}


@pytest.mark.slow
def test_a_mistake_in_a_process_of_its_own_leaves_no_traceback(recipe):
    done = align("train", recipe, "data.train=none.jsonl")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert done.stderr.strip().splitlines()[-1] == "align: data.train 'none.jsonl': no such file or folder"


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(name, recipe):
    arguments, message = MISTAKES[name]
    done = align_here(*[recipe if a == "RECIPE" else a for a in arguments])
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("align: ")
    assert message in last


BAD_LINES = {
    "corrupt": ('{"prompt": "p", "cho', "line 3: the line is not JSON"),
    "missing column": ('{"prompt": "p", "chosen": "a"}', "line 3: no column 'rejected'"),
    "empty response": ('{"prompt": "p", "chosen": "", "rejected": "b"}', "line 3: `chosen` is empty"),
    "NaN score": ('{"prompt": "p", "nodes": [{"text": "a", "score": NaN}]}', "line 3: nodes[0].score is nan"),
    "cycle": ('{"prompt": "p", "nodes": [{"text": "a", "parent": 0}]}', "line 3: nodes[0].parent"),
    "no siblings": (
        '{"prompt": "p", "nodes": [{"text": "a"}, {"text": "b", "parent": 0}], "edges": [{"chosen": 0, "rejected": 1}]}',
        "line 3: edges[0] joins nodes 0 and 1, which are not siblings",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_record_is_named_by_line_and_kept(name, recipe, tmp_path):
    line, message = BAD_LINES[name]
    good = (tmp_path / "pairs.jsonl").read_text().splitlines()
    (tmp_path / "pairs.jsonl").write_text("\n".join([*good[:2], line, *good[2:5]]) + "\n")
    done = align_here("train", recipe)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert f"{tmp_path / 'pairs.jsonl'} {message}" in last
    kept = json.loads((tmp_path / "run" / "unreadable.jsonl").read_text())
    assert kept["where"].endswith("line 3")
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 6


def test_show_draws_trees_and_counts(tmp_path, recipe):
    done = align_here("show", tmp_path / "pairs.jsonl", "--first", 1)
    assert done.returncode == 0
    assert "+ 0" in done.stdout
    assert "beats 1" in done.stdout
    assert "12 trees, 24 nodes, 12 edges" in done.stdout


def test_recipes_doctor_and_schema_answer(tmp_path):
    assert "micro/dpo-3d" in align_here("recipes").stdout
    assert "transformers" in align_here("doctor").stdout
    assert align_here("schema", tmp_path / "schema.json").returncode == 0
    assert json.loads((tmp_path / "schema.json").read_text())["title"] == "align recipe"


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("a-file", "a file stands where a folder is needed"), ("a-file/below", "a file stands where a folder is needed"),
        ("/proc/nowhere", "/proc/nowhere: No such file or directory"), ("/sys/kernel/x", "Operation not permitted: give a folder"),
        ("x" * 300, "File name too long: give a shorter name"), ("loop/x", "a link leads to itself"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "command", [["run", "micro/dice"], pytest.param(["train", "RECIPE"], marks=pytest.mark.slow), ["slurm", "micro/dice"]]
)
def test_a_folder_that_cannot_be_written_is_one_sentence(command, folder, message, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    words = [str(recipe) if word == "RECIPE" else word for word in command]
    done = align_here(*words, f"training.output_dir={folder}")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
