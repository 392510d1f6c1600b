"""What a mistake in a recipe with rounds says: one sentence, before anything is lost."""

import json
import os

import pytest
from conftest import align, align_here, byte_level_tokenizer, random_model
from tiny import write_models, write_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


MISTAKES = {
    "missing model": (["model.name_or_path=./nowhere"], "model.name_or_path './nowhere': there is no model in this folder"),
    "missing reference": (["model.reference=null"], "model.reference is missing: implicit rewards"),
    "missing prompts": (["rollouts.prompts=none.jsonl"], "rollouts.prompts 'none.jsonl': no such file"),
    "unknown scorer": (["rounds.scorers=[{name: implicid}]"], "rounds.scorers is 'implicid': did you mean 'implicit'"),
    "unknown pairing": (["rounds.pairing=best_wurst"], "did you mean 'best_worst'"),
    "unknown stage": (["--until", "round-1/pear"], "there is no such stage: did you mean 'round-1/pair'"),
    "too many wanted": (["rounds.filter.min_responses=9"], "rounds.filter.min_responses is 9, but rollouts.samples is 6"),
    "greedy": (["rollouts.temperature=0"], "samples above 1 at temperature 0"),
    "loss without leaf": (["training.loss_type=[selm]"], "belong together"),
    "no server": (["rollouts.engine=server", "rollouts.url=http://127.0.0.1:9"], "no OpenAI-compatible server answers"),
    "nobody logged in": (["training.report_to=wandb"], "nobody is logged in"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(name, models, tmp_path, monkeypatch):
    arguments, message = MISTAKES[name]
    for key in [key for key in os.environ if key.startswith("WANDB")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = align_here("run", write_recipe(tmp_path, models), *arguments)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("align: ")


def test_what_only_a_stage_can_see_is_one_sentence_too(models, tmp_path):
    done = align("run", write_recipe(tmp_path, models), "rounds.filter.max_characters=1")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "align: round-1/filter: none of 8 prompts has 3 valid responses" in done.stderr
    assert "Traceback" not in done.stderr


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
