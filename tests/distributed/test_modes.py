"""A recipe trains the same model however it is distributed: real processes, real DeepSpeed, real FSDP, over gloo."""

import math
import shutil

import pytest
import spread
import torch
import yaml
from conftest import random_model

from align.models import load_model
from align.trainers.checkpoints import read_record

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]
MORE = pytest.mark.exhaustive  # ZeRO-1 and 2 shard less than ZeRO-3; offload has a compiler at work for minutes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    spread.write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """One process: the curve and the log-probs that all others are held against."""
    found = spread.train(spread.on_cpu(folder, "cpu", 1), spread.write_recipe(folder, "alone"))
    assert found.returncode == 0, found.stderr[-3000:]
    return spread.curve(folder / "alone/checkpoint-20"), spread.log_probs(folder / "alone")


@pytest.fixture(
    scope="module", params=[pytest.param(mode, marks=MORE if mode in ("zero1", "zero2", "zero3-offload") else ()) for mode in spread.MODES]
)
def run(request, folder):
    """The same recipe over two processes; checkpoints after 7 of 20 steps and so on."""
    mode = request.param
    if mode == "zero3-offload" and not shutil.which("ninja"):
        pytest.skip("DeepSpeed compiles its Adam for CPUs with ninja, which is not installed")
    config, recipe = spread.on_cpu(folder, mode), spread.write_recipe(folder, mode)
    found = spread.train(config, recipe)
    assert found.returncode == 0, found.stderr[-3000:]
    return mode, config, recipe


def test_the_curve_and_the_model_are_those_of_one_process(run, alone, folder):
    """20 steps on trees of unequal sizes, the last of an epoch with a single tree for two ranks."""
    curve, log_probs = alone
    record = read_record(folder / run[0] / "checkpoint-20")
    assert (record.processes, record.sharding) == (2, {"ddp": "none", "fsdp2": "fsdp"}.get(run[0], run[0][:5]))
    assert len(curve.losses) == 20
    assert max(curve.losses) - min(curve.losses) > 0.1, "nothing was learned, so nothing is shown"
    found = spread.curve(folder / run[0] / "checkpoint-20")
    for name in ("losses", "margins", "chosen"):
        assert getattr(found, name) == pytest.approx(getattr(curve, name), rel=1e-4, abs=1e-4), name
    assert torch.allclose(spread.log_probs(folder / run[0]), log_probs, atol=1e-3)


def test_a_resumed_training_ends_with_the_same_weights(run, folder):
    """From a checkpoint in the middle of an epoch: optimizer, schedule, order of the data, random states, monitor."""
    mode, config, recipe = run
    whole, curve = spread.weights(folder / mode), spread.curve(folder / mode / "checkpoint-20")
    shutil.rmtree(folder / mode / "checkpoint-20")
    shutil.rmtree(folder / mode / "checkpoint-14")
    found = spread.train(config, recipe, "training.resume_from_checkpoint=true")
    assert found.returncode == 0, found.stderr[-3000:]
    resumed = spread.curve(folder / mode / "checkpoint-20")
    assert resumed.losses == pytest.approx(curve.losses, abs=1e-6)
    assert resumed.chosen == pytest.approx(curve.chosen, abs=1e-5)
    for name, tensor in spread.weights(folder / mode).items():
        assert torch.allclose(tensor, whole[name], atol=1e-6), name


@pytest.mark.parametrize("mode", ["zero3", "fsdp2"])
def test_a_reference_that_is_kept_is_sharded_too(mode, alone, folder):
    """`cache_reference: false` runs it in every step, on ranks without a tree as well."""
    recipe = spread.write_recipe(folder, f"kept-{mode}", cache_reference=False, precompute_ref_log_probs=False)
    found = spread.train(spread.on_cpu(folder, mode), recipe)
    assert found.returncode == 0, found.stderr[-3000:]
    assert spread.curve(folder / f"kept-{mode}/checkpoint-20").losses == pytest.approx(alone[0].losses, abs=1e-4)


def test_a_reference_of_its_own_is_the_same_where_it_is_sharded_and_then_released(folder):
    random_model(seed=3, scale=0.1).save_pretrained(folder / "reference")
    found = {}
    for mode in ("cpu", "zero3", "fsdp2"):
        recipe = spread.write_recipe(folder, f"other-{mode}", num_train_epochs=1)
        trained = spread.train(spread.on_cpu(folder, mode, 1 if mode == "cpu" else 2), recipe, f"model.reference={folder / 'reference'}")
        assert trained.returncode == 0, trained.stderr[-3000:]
        found[mode] = spread.curve(folder / f"other-{mode}/checkpoint-10").losses
    assert abs(found["cpu"][0] - math.log(2)) > 1e-3, "the reference is not the policy"
    assert found["zero3"] == pytest.approx(found["cpu"], abs=1e-4)
    assert found["fsdp2"] == pytest.approx(found["cpu"], abs=1e-4)


def test_an_adapter_trains_alike_where_weights_are_sharded(folder):
    """Under ZeRO-3 its reference is computed first; under FSDP, where nothing is whole before the training, in every step."""
    found = {}
    for mode in ("cpu", "zero3", "fsdp2"):
        recipe = spread.write_recipe(folder, f"lora-{mode}", num_train_epochs=1)
        content = yaml.safe_load(recipe.read_text())
        content["model"]["lora"] = {"r": 4, "dropout": 0.0}
        recipe.write_text(yaml.safe_dump(content))
        trained = spread.train(spread.on_cpu(folder, mode, 1 if mode == "cpu" else 2), recipe)
        assert trained.returncode == 0, trained.stderr[-3000:]
        model = load_model(str(folder / f"lora-{mode}"), dtype="float32").eval()
        found[mode] = spread.curve(folder / f"lora-{mode}/checkpoint-10").losses, spread.log_probs_of(model)
    losses, log_probs = found.pop("cpu")
    assert losses[0] - losses[-1] > 0.05, "nothing was learned, so nothing is shown"
    for curve, saved in found.values():
        assert curve == pytest.approx(losses, abs=1e-4)
        assert torch.allclose(saved, log_probs, atol=1e-3)


@pytest.mark.parametrize("mode", [pytest.param("ddp", marks=MORE), pytest.param("zero2", marks=MORE), "fsdp2"])
def test_compiled_layers_train_alike(mode, alone, folder):
    """With graphs that run as they are: what matters here is that layers are compiled beneath the wrappers."""
    recipe = spread.write_recipe(folder, f"compiled-{mode}", torch_compile=True, torch_compile_backend="aot_eager")
    found = spread.train(spread.on_cpu(folder, mode), recipe)
    assert found.returncode == 0, found.stderr[-3000:]
    assert spread.curve(folder / f"compiled-{mode}/checkpoint-20").losses == pytest.approx(alone[0].losses, abs=1e-4)
    assert torch.allclose(spread.log_probs(folder / f"compiled-{mode}"), alone[1], atol=1e-3)


@MORE
def test_where_weights_come_and_go_nothing_is_compiled_and_the_run_says_so(alone, folder):
    recipe = spread.write_recipe(folder, "compiled-zero3", torch_compile=True, num_train_epochs=1)
    found = spread.train(spread.on_cpu(folder, "zero3"), recipe)
    assert found.returncode == 0, found.stderr[-3000:]
    assert "torch_compile is ignored under ZeRO-3: layers whose weights are gathered and freed cannot be compiled." in found.stderr
    assert spread.curve(folder / "compiled-zero3/checkpoint-10").losses == pytest.approx(alone[0].losses[:10], rel=1e-2, abs=1e-2)
