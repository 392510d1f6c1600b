"""A stage whose module takes longer to import than anyone waits."""

import time

time.sleep(60)
