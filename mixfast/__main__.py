"""``python -m mixfast``."""

import sys

from mixfast.cli import main

sys.exit(main())
