"""A language model as scorer: what it is asked, how its grades are read and averaged, and the policy grading itself for real."""

import contextlib
import json
from dataclasses import replace

import pytest
from conftest import byte_level_tokenizer, random_model

from align import plans, recipes
from align.errors import AlignError
from align.rewards.scorers import ScorerSettings, open_scorer
from align.runs import Task
from align.trees import Node, PreferenceTree, write_trees
from data_pipelines.implicit_rewards.llm_scorer import LLMScorer, read_grade, template_of
from data_pipelines.implicit_rewards.pairing import pair
from data_pipelines.implicit_rewards.scoring import score
from data_pipelines.rollouts.engines import ENGINES
from data_pipelines.rollouts.protocol import Completion, Rollout

TREE = PreferenceTree("What is two and two?", (Node("Four."), Node("Five."), Node("Perhaps.")), id="a")


class Canned:
    """An engine that grades by what stands in the prompt: so many replies, whatever their number is."""

    context, batch = 4000, None
    replies = {"Four.": ["Right. Score: 5", "score 4", "I do not know."], "Five.": ["Score: 1", "Score: 0", "**Score:** 2/5"]}

    def __init__(self):
        self.tokenizer, self.asked, self.closed = byte_level_tokenizer(), [], False

    def prompt_ids(self, prompt):
        self.asked.append(prompt)
        return (len(self.asked),)

    def generate(self, requests, sampling):
        for request in requests:
            text = str(self.asked[request.prompt[0] - 1])
            replies = next((replies for key, replies in self.replies.items() if key in text), ["no grade at all"] * request.n)
            yield Rollout(request.id, request.prompt, tuple(Completion(reply, (1,), (), "stop") for reply in replies[: request.n]))


@pytest.fixture
def canned(monkeypatch):
    engine = Canned()

    @contextlib.contextmanager
    def opened(settings, model):
        engine.model, engine.settings = model, settings
        yield engine
        engine.closed = True

    monkeypatch.setitem(ENGINES._entries, "canned", opened)
    return engine


def scored(**options):
    scorer = open_scorer("llm", ScorerSettings("the-policy", "", options={"engine": "canned", **options}))
    ((*scores,),) = scorer.score([TREE])
    return [(score.reward, score.details["readable"]) for score in scores]


def test_the_mean_of_the_readable_grades_is_the_reward(canned):
    assert scored() == [(4.5, 2.0), (1.0, 3.0), (None, 0.0)]
    assert canned.model == "the-policy"
    assert canned.closed, "the engine stays open when the scorer is gone"
    assert [message["role"] for message in canned.asked[0]] == ["user"]
    assert "What is two and two?" in canned.asked[0][0]["content"]
    assert scored(votes=1, model="another", tensor_parallel=2, engine_options={"max_model_len": 9})[0] == (5.0, 1.0)
    assert (canned.settings.tensor_parallel, canned.settings.options) == (2, {"max_model_len": 9})
    assert canned.model == "another"


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("Score: 3", 3.0), ("score: 3\nNo, wait. Score: 4", 4.0), ("**Score**: 2.5", 2.5), ("Score: 5/5", 5.0), ("Score: 6", None), ("3", None),
        ("The scoreboard says 3", None), ("", None), ("SCORE = 0", 0.0), ("Score: -1", None), ("Score (0-5): 4", 4.0), ("Score: 1,000", None), ("underscore 3", None),
        ("I give it a score of 4", 4.0), ("Final score is 4", 4.0), ("Score: \n4", 4.0), ("The score is: **2**/5", 2.0), ("Score: 4, as said", 4.0),
        ("Score: 4\nA score of 5 would need a proof.", 4.0), ("Score\n1. It is about", None), ("**Score:**\n**3/5**", 3.0),
    ],
)  # fmt: skip
def test_grades_are_read_at_the_end(reply, grade):
    assert read_grade(reply) == grade


def test_rounds_and_seeds_draw_other_grades_on_the_recipes_engine():
    """The run's seed and the round reach the grades' seed, and how the recipe spreads a model over GPUs the grading engine."""
    changes = ["rounds.prompts=all", "rollouts.engine=vllm", "rollouts.options={pipeline_parallel_size: 2}", "resources.tensor_parallel=4"]

    def scoring(seed, *more, options="{engine: vllm, seed: 5}"):
        recipe = recipes.load(
            "self-rewarding/llama3-8b", [*changes, f"training.seed={seed}", f"rounds.scorers=[{{name: llm, options: {options}}}]", *more]
        )
        return [stage for stage in plans.stages_of(recipe) if stage.name.endswith("/score")]

    found = [stage for seed in (0, 1) for stage in scoring(seed)] + scoring(0, options="{engine: vllm, seed: 6}")[:1]
    options = [stage.settings["scorers"][0]["options"] for stage in found]
    assert len({one["seed"] for one in options}) == len(found) == 2 * len(scoring(0)) + 1
    assert [one["seed"] for one in options[:2]] == [stage.settings["scorers"][0]["options"]["seed"] for stage in scoring(0)[:2]]
    assert options[0]["tensor_parallel"] == 4
    assert options[0]["engine_options"] == {"pipeline_parallel_size": 2}
    assert found[0].resources["gpus_per_process"] == 8
    (own, *_) = scoring(0, options="{engine: vllm, tensor_parallel: 1, engine_options: {}}")
    assert "gpus_per_process" not in own.resources
    for options in ("{}", "{engine: server, url: 'http://there'}"):
        (other, *_) = scoring(0, options=options)
        assert not {"tensor_parallel", "engine_options"} & other.settings["scorers"][0]["options"].keys()


def test_mistakes_are_one_sentence(canned, tmp_path):
    (tmp_path / "prompt.txt").write_text("Grade {response}.")
    with pytest.raises(AlignError, match=r"there is no \{instruction\} in it"):
        template_of(str(tmp_path / "prompt.txt"))
    with pytest.raises(AlignError, match="no such file"):
        template_of(str(tmp_path / "absent.txt"))
    with pytest.raises(AlignError, match=r"there is no options.vote: did you mean 'votes'"):
        scored(vote=2)
    with pytest.raises(AlignError, match=r"rollouts.engine is 'transformer': did you mean 'transformers'"):
        LLMScorer(ScorerSettings("m", "", options={"engine": "transformer"}))


def test_a_real_model_grades_itself_alike_at_the_same_seed(tmp_path):
    random_model().save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "prompt.txt").write_text("{instruction} {response} Score:")
    options = {"votes": 2, "max_new_tokens": 4, "template": str(tmp_path / "prompt.txt")}
    scorer = open_scorer("llm", ScorerSettings(str(tmp_path / "model"), "", dtype="float32", options=options))
    first, again = scorer.score([TREE]), scorer.score([TREE])
    assert first == again
    assert all(score.reward is None or 0.0 <= score.reward <= 5.0 for score in first[0])


def test_a_response_without_a_grade_is_in_no_pair_and_is_counted(canned, tmp_path):
    """Also one whose grading prompt does not fit the context: neither is worth 0, below a response that was graded badly."""
    write_trees([TREE, replace(TREE, id="b", nodes=TREE.nodes[1:])], tmp_path / "trees.jsonl")
    grading = {"scorers": [{"name": "llm", "options": {"engine": "canned"}}], "policy_scores": "rescore", "dtype": "auto", "max_tokens": 99}
    inputs = {"trees": str(tmp_path / "trees.jsonl"), "policy": "p", "reference": "r"}
    score(Task("score", tmp_path / "score", grading, inputs))
    settings = {"scorers": [{"name": "llm"}], "length_unit": "characters", "length_alpha": 0.0, "pairing": "best_worst", "replay": 0.0, "seed": 0, "round": 1}  # fmt: skip
    inputs |= {"scores": str(tmp_path / "score" / "scores")}
    pair(Task("pair", tmp_path / "pair", settings, inputs))
    (flat,) = [json.loads(line) for line in (tmp_path / "pair" / "flat.jsonl").read_text().splitlines()]
    assert (flat["chosen"], flat["rejected"], flat["score_rejected"]) == ("Four.", "Five.", 1.0)
    counted = json.loads((tmp_path / "pair" / "statistics.json").read_text())
    assert (counted["prompts"], counted["responses"]) == (1, 2)
    assert (counted["responses_without_reward"], counted["prompts_without_rewards"]) == (2, 1)
    aside = [json.loads(line) for line in (tmp_path / "pair" / "without-reward.jsonl").read_text().splitlines()]
    assert [(one["prompt"], one["response"], one["llm"]["reward"]) for one in aside] == [("a", "Perhaps.", None), ("b", "Perhaps.", None)]
    canned.context = 0
    assert scored() == [(None, 0.0)] * 3
    score(Task("score", tmp_path / "none", grading, {key: inputs[key] for key in ("trees", "policy", "reference")}))
    with pytest.raises(AlignError, match="none of 2 prompts has two responses with a reward: 5 responses have none"):
        pair(Task("pair", tmp_path / "nothing", settings, inputs | {"scores": str(tmp_path / "none" / "scores")}))
