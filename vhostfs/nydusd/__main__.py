"""`python -m vhostfs.nydusd`."""

import sys

from vhostfs.nydusd.cli import main

sys.exit(main())
