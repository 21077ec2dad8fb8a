"""Entry point of ``python -m tests.testbed``."""

import sys

from tests.testbed.cli import main

sys.exit(main())
