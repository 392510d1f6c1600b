"""`accelerate launch -m align.train RECIPE [key=value ...]`: `align train` in the form that launchers want."""

import sys

from align.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
