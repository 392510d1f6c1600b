"""Makes the trainer of a recipe over as many ranks as torchrun starts; each rank writes which files it reads, or why it stopped."""

import json
import os
import sys
from pathlib import Path

from align import experiment, recipes
from align.errors import AlignError
from align.trainers.collator import token_tree
from align.trainers.data import as_dataset
from align.trees import scratch_file


def main(folder: Path, output: Path, settings: str) -> None:
    """Trees are read, tokenized and trained for two steps."""
    training = {
        "output_dir": str(output), "bf16": False, "max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "save_strategy": "no",
        "gradient_checkpointing": False, "max_length": 128, "monitor_3d": False, "disable_tqdm": True,
    }  # fmt: skip
    data = {"train": str(folder / "mixed.jsonl"), **json.loads(settings)}
    model = str(folder / "model")
    recipe = recipes.parse({"model": {"name_or_path": model, "dtype": "float32"}, "data": data, "training": training}, "shared")
    try:
        trainer = experiment.make_trainer(recipe, model, "shared", output)
    except AlignError as error:
        told = {"error": str(error)}
    else:
        trainer.train()
        dataset = trainer.train_dataset
        told = {
            "files": [cached["filename"] for cached in dataset.cache_files], "own": str(Path(scratch_file("none")).parent),
            "tokens": [token_tree(example).tokens for example in dataset],
            "list": as_dataset([{"prompt": "p", "chosen": "a", "rejected": "b"}]).cache_files,
        }  # fmt: skip
    (output / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
