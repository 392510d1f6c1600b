"""Any file operation of a run fails, or the run is killed in it: it says so in a sentence or goes on, and the same command ends alike.

`layer.c` fails the operation, whatever library does it; `harness.py` counts the operations of an undisturbed run, and compares what is left.
"""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from harness import Undisturbed, Zygote
from small_runs import METHODS, write_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="the layer that fails file operations needs a C compiler"),
    pytest.mark.skipif(os.uname().sysname != "Linux", reason="the layer is loaded by Linux' linker"),
]
SAMPLE = {"toy": 25, "dice": 6, "cpo": 6, "code": 6}  # points of each method where not all are tried
SEED = int(os.environ.get("ALIGN_FAULT_SEED", "0"))


@pytest.fixture(scope="module")
def scratch():
    """In memory where that can be: what is synced a thousand times need not reach a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as made:
        yield Path(made)


@pytest.fixture(scope="module", params=["toy", "training"])
def zygote(request, scratch):
    (scratch / request.param).mkdir()
    process = Zygote(scratch / request.param, request.param)
    yield process
    process.close()


@pytest.fixture(scope="module")
def models(scratch):
    (scratch / "models").mkdir()
    return write_models(scratch / "models")


def undisturbed(method, zygote, scratch, models):
    if (method == "toy") != (zygote.kind == "toy"):
        pytest.skip("the other process carries it out")
    place = Path(tempfile.mkdtemp(dir=scratch))
    (place / "copies").mkdir()
    return Undisturbed(zygote, METHODS[method](place, models), place / "copies")


def wrong_at(run, points):
    return [told for step, fault in points if (told := run.disturbed(step, fault)) is not None]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_survives_some_fault_in_some_operations(method, zygote, scratch, models):
    run = undisturbed(method, zygote, scratch, models)
    points = run.points()
    assert len(points) > 500
    wrong = wrong_at(run, random.Random(SEED).sample(points, SAMPLE[method]))
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", METHODS)
def test_a_run_survives_every_fault_in_every_operation(method, zygote, scratch, models):
    """Hours. The number of points stands in the error where some go wrong."""
    run = undisturbed(method, zygote, scratch, models)
    points = run.points()
    wrong = wrong_at(run, points)
    assert not wrong, f"{len(wrong)} of {len(points)}\n" + "\n\n".join(wrong)
