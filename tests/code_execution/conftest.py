"""One sandbox for each mechanism of this machine, kept for all tests of a process."""

import pytest

from data_pipelines.code_execution.sandbox import Sandbox
from data_pipelines.code_execution.sandbox.isolation import Isolation
from data_pipelines.code_execution.sandbox.pool import available

MECHANISMS = ("bubblewrap", "unshare", "filters", "limits")


@pytest.fixture(scope="session")
def reasons():
    """Why a mechanism is not to be had here, by name; empty where it is."""
    return available()


@pytest.fixture(scope="module", params=MECHANISMS)
def mechanism(request, reasons):
    if reasons[request.param]:
        pytest.skip(f"{request.param}: {reasons[request.param]}")
    return request.param


@pytest.fixture(scope="module")
def sandbox(mechanism):
    with Sandbox(Isolation(mechanism), workers=1) as box:
        yield box


@pytest.fixture(scope="session")
def best():
    """The strongest isolation of this machine."""
    with Sandbox(workers=1) as box:
        yield box
