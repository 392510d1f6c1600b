"""`align train` with real FSDP over gloo.

torch shards on CPUs as on GPUs, but accelerate turns FSDP on for GPUs alone: here it is told that it has some.
"""

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from align.cli import main

prepare = PartialState.__init__


def with_gpus(self: PartialState, cpu: bool = False, **kwargs: object) -> None:
    prepare(self, cpu, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = with_gpus
    sys.exit(main(["train", *sys.argv[1:]]))
