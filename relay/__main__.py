"""``python -m relay`` is ``headwater relay``."""

import sys

from common.runtime.cli import main

sys.exit(main(["relay", *sys.argv[1:]]))
