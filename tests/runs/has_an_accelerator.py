"""A stage whose module brings a torch that sees a device which is not NVIDIA's; a stand-in, since there is none here."""

import os
import sys
import types

from align.runs import Task, write_json

ABSENT, PRESENT = (types.SimpleNamespace(is_available=lambda answer=answer: answer) for answer in (False, True))
sys.modules.setdefault("torch", types.SimpleNamespace(cuda=ABSENT, accelerator=PRESENT))


def about(task: Task) -> None:
    """Output `about.json`, the process's parent."""
    write_json(task.folder / "about.json", {"parent": os.getppid()})
