"""`align train` with the LM head called in parts of 32 tokens, so that ranks with rows of other lengths have other numbers of them.

Under ZeRO-3 each call gathers the head's weight from all ranks: they must all make as many.
"""

import sys

from align.cli import main
from align.engine import lm_head

if __name__ == "__main__":
    for limits in (lm_head._CHUNK, lm_head._SCORING_CHUNK):
        limits["cpu"] = 1
    lm_head.KEEP["cpu"] = 100 * 400  # logits of longer rows are computed again in the backward
    sys.exit(main(["train", *sys.argv[1:]]))
