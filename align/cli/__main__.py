"""`python -m align.cli`."""

import sys

from align.cli import main

sys.exit(main())
