"""`accelerate launch -m align.train RECIPE [key=value ...]`: `align train` in the form that launchers want."""

import sys

from align.imports import put_ours_first

put_ours_first()

from align.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
