"""`python -m align.cli`."""

import sys

from align.imports import put_ours_first

put_ours_first()

from align.cli import main  # noqa: E402

sys.exit(main())
