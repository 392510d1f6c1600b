"""A stage whose module imports what computes with threads of its own, and prints."""

import os

import numpy as np

from align.runs import Task, write_json

print("computes is imported")


def about(task: Task) -> None:
    """Output `about.json`: the process's parent, and the sum of a product that takes threads."""
    ones = np.ones((512, 512))
    write_json(task.folder / "about.json", {"parent": os.getppid(), "product": float((ones @ ones).sum())})
