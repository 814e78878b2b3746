"""`python -m extproc`: the same as the `extproc` command."""

import sys

from extproc.cli import main

sys.exit(main())
