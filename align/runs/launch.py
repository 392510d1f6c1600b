"""Training over all GPUs of a machine, or of every node of a Slurm job, by accelerate's launcher.

`python -m align.runs.launch CONFIG MODULE ARGUMENTS…` becomes `accelerate launch` with the numbers of the place where it finds itself.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from align.errors import AlignError

_OF_A_GROUP = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_OF_LAUNCHERS = ("ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_")


@dataclass(frozen=True)
class Place:
    """One node's part in a launch.

    Attributes:
        nodes: how many take part.
        rank: this one's number.
        processes: on each node; None leaves it to the configuration.
        address, port: where the first node is reached.
    """

    nodes: int = 1
    rank: int = 0
    processes: int | None = None
    address: str = "127.0.0.1"
    port: int = 0


def here(environment: Mapping[str, str]) -> Place:
    """This node's place: as Slurm's task knows it, or a machine of its own.

    `ALIGN_PROCESSES_PER_NODE` takes the place of the number of GPUs, `ALIGN_ADDRESS` that of the first node's name.
    """
    wanted = environment.get("ALIGN_PROCESSES_PER_NODE") or environment.get("SLURM_GPUS_ON_NODE")
    processes = int(wanted) if wanted else len(visible_gpus(environment)) or None
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", "1")) if "SLURM_STEP_ID" in environment else 1
    if nodes == 1:
        return Place(processes=processes)
    port = 20000 + (int(environment["SLURM_JOB_ID"]) * 37 + int(environment["SLURM_STEP_ID"])) % 20000
    return Place(nodes, int(environment["SLURM_NODEID"]), processes, environment.get("ALIGN_ADDRESS") or _first_node(environment), port)


def command(config: str, module: str, arguments: Sequence[str], place: Place) -> list[str]:
    """accelerate's launcher for one node.

    Args:
        config: an accelerate configuration.
        module: to be run by every process.
        arguments: the module's.
        place: of the node.

    Raises:
        AlignError: the configuration is for DeepSpeed, which is not installed here.
    """
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", str(place.port)]
    with open(config, encoding="utf-8") as file:
        kind = yaml.safe_load(file).get("distributed_type")
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise AlignError(f"{Path(config).name} needs DeepSpeed, which is not installed: pip install 'align-preferences[deepspeed]'")
    if place.processes and kind != "NO":
        launch += ["--num_processes", str(place.nodes * place.processes)]
    if place.nodes > 1:
        launch += ["--num_machines", str(place.nodes), "--machine_rank", str(place.rank), "--main_process_ip", place.address]
        if kind == "DEEPSPEED":
            launch += ["--deepspeed_multinode_launcher", "standard"]  # the nodes are there already: no pdsh
    return [*launch, "-m", module, *arguments]


def over_nodes(config: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The launch on this machine; in a Slurm job of several nodes, one on each, all ended as soon as one fails."""
    nodes = environment.get("SLURM_JOB_NUM_NODES", "1")
    if nodes == "1" or "SLURM_STEP_ID" in environment:
        return command(config, module, arguments, here(environment))
    spread = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--label"]
    spread += shlex.split(environment.get("ALIGN_RUNNER", ""))  # what starts a container here does so on the other nodes
    return [*spread, sys.executable, "-m", __name__, config, module, *arguments]


def of_no_group(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a launcher tells the processes of its group: for processes that are not of it."""
    if "RANK" not in environment:
        return dict(environment)
    return {name: value for name, value in environment.items() if name not in _OF_A_GROUP and not name.startswith(_OF_LAUNCHERS)}


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs of this machine that may be used, by the numbers or names that CUDA knows them by."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, _ in enumerate(listed.splitlines())]


def _first_node(environment: Mapping[str, str]) -> str:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    return subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True).stdout.split()[0]


def main(config: str, module: str, arguments: Sequence[str]) -> int:
    """Launch, from here or on every node; says which node it was that failed."""
    launched = over_nodes(config, module, arguments, os.environ)
    status = subprocess.run(launched, check=False).returncode
    if status and launched[0] != "srun":
        node = os.environ.get("SLURMD_NODENAME", os.uname().nodename)
        print(f"align: node {node}: the training ended with status {status}: its first error stands above", file=sys.stderr)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
    except AlignError as error:
        print(f"align: {error}", file=sys.stderr)
        sys.exit(2)
