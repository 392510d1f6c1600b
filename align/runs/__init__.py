"""Runs: stages in their own processes, resumable at any point, re-run exactly where something changed.

A run is a folder with one folder a stage. A stage is a function named by string, its settings and its inputs; it is done
when `manifest.json` stands in its folder under a key that hashes all three. Long stages append finished units of work to
journals, so that a crash loses at most what was in flight.
"""

from align.files import write_json
from align.runs.driver import execute
from align.runs.folder import RunFolder
from align.runs.journal import Journal, Shard, read_journal
from align.runs.plan import State, assess
from align.runs.stage import External, Input, Output, Stage, StageSettings, Task
from align.runs.work import Finished, Work

__all__ = [
    "External", "Finished", "Input", "Journal", "Output", "RunFolder", "Shard", "Stage", "StageSettings", "State", "Task", "Work",
    "assess", "execute", "read_journal", "write_json",
]  # fmt: skip
