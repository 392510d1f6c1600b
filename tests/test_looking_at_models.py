"""`align export` gives a model that others load and that computes the same; `align chat` has models answer side by side."""

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import peft
import pytest
import torch
import transformers as T
import yaml
from conftest import align, align_here, byte_level_tokenizer, random_model

from align.chat import answers, talks
from align.sampling import Sampling


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models and an adapter of the first, with tokenizers."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("before", "after")):
        random_model(seed=seed).save_pretrained(folder / name)
        byte_level_tokenizer().save_pretrained(folder / name)
    adapted = peft.get_peft_model(
        T.AutoModelForCausalLM.from_pretrained(folder / "before"), peft.LoraConfig(r=4, target_modules="all-linear")
    )
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2, generator=torch.Generator().manual_seed(1))
    adapted.save_pretrained(folder / "adapter")
    byte_level_tokenizer().save_pretrained(folder / "adapter")
    return folder


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]])).logits


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """A run of a training with LoRA."""
    folder = tmp_path_factory.mktemp("run")
    rows = [{"prompt": f"What is {i}?", "chosen": f" It is {i}.", "rejected": " Who knows, and who cares?"} for i in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"output_dir": str(folder / "run"), "max_steps": 2, "bf16": False, "report_to": "none", "max_length": 40}
    content = {
        "model": {"name_or_path": str(models / "before"), "dtype": "float32", "lora": {"r": 4, "target_modules": "all-linear"}},
        "data": {"train": str(folder / "pairs.jsonl")}, "training": {**training, "monitor_3d": False, "learning_rate": 0.01},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    done = align("run", folder / "recipe.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


@pytest.mark.slow
def test_a_runs_model_is_exported_as_adapter_and_merged(run, tmp_path):
    done = align_here("export", run, "--to", tmp_path / "adapter")
    assert done.returncode == 0, done.stderr
    assert "--merge makes one model of both" in done.stdout
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert align_here("export", run, "--to", tmp_path / "whole", "--merge").returncode == 0
    whole = T.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(logits(whole), logits(T.AutoModelForCausalLM.from_pretrained(run / "train" / "model")))
    assert T.AutoTokenizer.from_pretrained(tmp_path / "whole")("It is five").input_ids
    assert not (tmp_path / "whole" / "training_args.bin").exists()
    done = align_here("chat", run, "--prompt", "What is 2?", "--max-new-tokens", 4, "--json")
    assert json.loads(done.stdout)["answers"][0]["model"] == str(run)


def test_an_adapter_is_merged_into_its_base(models, tmp_path):
    assert align_here("export", models / "adapter", "--to", tmp_path / "whole", "--merge").returncode == 0
    base = T.AutoModelForCausalLM.from_pretrained(models / "before")
    expected = logits(peft.PeftModel.from_pretrained(base, models / "adapter"))
    found = logits(T.AutoModelForCausalLM.from_pretrained(tmp_path / "whole"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]


def test_a_model_is_copied_without_what_is_not_its_own(models, tmp_path):
    for name in ("optimizer.pt", "training_args.bin", "log.jsonl"):
        (models / "after" / name).write_bytes(b"x")
    done = align_here("export", models / "after", "--to", tmp_path / "new" / "copy")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "new" / "copy").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not names & {"optimizer.pt", "training_args.bin", "log.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODELS/after", "--to", "MODELS/before"], "something lies there already"),
        (["MODELS/after", "--to", "TMP/x", "--merge"], "is no adapter, but a whole model"),
        (["MODELS/aftr", "--to", "TMP/x"], "no such file or folder: did you mean 'after'?"),
        (["MODELS", "--to", "TMP/x"], "there is no run in this folder"),
        (["MODELS/after", "--to", "hub:a/b/c"], "expected hub:OWNER/NAME"),
        (["MODELS/after", "--to", "hub:a/b"], "the hub cannot be reached (or HF_HUB_OFFLINE is set)"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(arguments, message, models, tmp_path):
    words = [word.replace("MODELS", str(models)).replace("TMP", str(tmp_path)) for word in arguments]
    done = align_here("export", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "x").exists()


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as takes a model: makes a repository, says that all files are small, and takes a commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            self.server.made = json.loads(body)
            answer = {"url": f"{self.server.address}/owner/name"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.files = sorted(line["value"]["path"] for line in lines if line["key"] == "file")
            answer = {"commitUrl": f"{self.server.address}/owner/name/commit/1", "commitOid": "1", "pullRequestUrl": None}
        self._send(answer)

    def do_GET(self):
        self._send({"id": "owner/name", "siblings": [], "sha": "1"})

    def _send(self, answer):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_a_model_goes_to_the_hub_in_one_commit(models):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "HF_ENDPOINT": server.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none"}
    (models / "after" / "checkpoint-1").mkdir(exist_ok=True)
    (models / "after" / "checkpoint-1" / "model.safetensors").write_bytes(b"x")
    done = align("export", models / "after", "--to", "hub:owner/name", env=environment)
    server.shutdown()
    assert done.returncode == 0, done.stderr[-3000:]
    assert server.made["visibility"] == "private"
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(server.files)
    assert not [name for name in server.files if "/" in name or name == "training_args.bin"]


def test_two_models_answer_side_by_side_and_each_remembers(models):
    sampling = Sampling(6, temperature=0.0)
    with talks([str(models / "before"), str(models / "adapter")], None) as several:
        first = answers(several, "What is 2?", sampling)
        assert [one.model for one in first] == [str(models / "before"), str(models / "adapter")]
        assert first[0].text != first[1].text
        answers(several, "And 3?", sampling)
        for talk, answer in zip(several, first, strict=True):
            assert [message["role"] for message in talk.messages] == ["user", "assistant", "user", "assistant"]
            assert talk.messages[1]["content"] == answer.text
            asked = talk.engine.tokenizer.apply_chat_template(talk.messages[:1], add_generation_prompt=True, return_dict=False)
            greedy = talk.engine.model.generate(torch.tensor([asked]), max_new_tokens=6, do_sample=False)[0, len(asked) :]
            assert talk.engine.tokenizer.decode(greedy, skip_special_tokens=True) == answer.text


def test_every_line_of_standard_input_is_a_prompt_by_itself(models, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 2?\n\nWhat is 2?\n"))
    done = align_here("chat", models / "after", "--against", models / "before", "--max-new-tokens", 5, "--json")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == second
    assert len(first["answers"]) == 2
    shown = align_here("chat", models / "after", "--against", models / "before", "--max-new-tokens", 5, "--prompt", "What is 2?")
    assert "> What is 2?" in shown.stdout
    assert shown.stdout.count("(cut off at 5 tokens)") == sum(one["cut"] for one in first["answers"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens 0: expected 1 or more"), (["--temperature", "-1"], "expected 0 or more"),
        (["--against", "./nowhere"], "'./nowhere'"),
    ],
)  # fmt: skip
def test_what_cannot_be_talked_with_is_one_sentence(words, message, models):
    done = align_here("chat", models / "after", "--prompt", "hi", *words)
    assert (done.returncode, done.stderr.count("align: ")) == (2, 1), done.stderr
    assert message in done.stderr


@pytest.mark.slow
def test_on_a_terminal_it_is_a_conversation(models):
    """With a pseudo-terminal for its input and output."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "align.cli", "chat", str(models / "after"), "--max-new-tokens", "4"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env={**os.environ, "TERM": "dumb"})
    os.close(slave)
    os.write(master, b"What is 2?\n/new\nAnd 3?\n\x04")
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is closed by its last user
        while piece := os.read(master, 1 << 12):
            shown += piece
            if shown.count(b"\n>") >= 3 and b"\x04" not in shown:
                os.write(master, b"\x04")
    assert process.wait(60) == 0, process.stderr.read()
    process.stderr.close()
    os.close(master)
    assert shown.count(b">") >= 3
