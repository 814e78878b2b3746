"""`python -m extproc.demo`."""

import sys

from extproc.demo.runner import main

sys.exit(main())
