"""A sandbox for programs that nobody has read: away from the host, from each other, and from what judges them."""

from data_pipelines.code_execution.sandbox.pool import Sandbox, available
from data_pipelines.code_execution.sandbox.results import ExecutionResult, Limits, TestResult, Verdict
from data_pipelines.code_execution.sandbox.tests import TOLERANCE, Assertions, Calls, Outputs, Tests

__all__ = [
    "TOLERANCE", "Assertions", "Calls", "ExecutionResult", "Limits", "Outputs", "Sandbox", "TestResult", "Tests", "Verdict", "available",
]  # fmt: skip
