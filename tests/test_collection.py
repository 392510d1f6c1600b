"""What the fast form of `scripts/test.sh` runs on: an environment without the packages that only slow tests need."""

import configparser
import os
import subprocess
import sys

import pytest
from conftest import ROOT

HIDE = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *where: None if name.partition(".")[0] in {hidden} else find(name, *where))
"""


@pytest.mark.slow
def test_all_tests_are_collected_without_the_packages_that_the_fast_form_does_not_install(tmp_path):
    hidden = {"deepspeed", "vllm", "bitsandbytes"}
    install = (ROOT / "scripts" / "test.sh").read_text()
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    assert "install.sh dev eval" in install
    assert not any(package in extras["options.extras_require"][name] for package in hidden for name in ("dev", "eval"))
    (tmp_path / "without_packages.py").write_text(HIDE.format(hidden=hidden))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "without_packages", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    collected = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert not [path for path in collected if path.startswith("tests/") and "/test_" not in path]
    assert {path for path in collected if path.startswith("align/")}, "doctests of the packages are collected"
