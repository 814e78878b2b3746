"""`python -m extproc.demo`."""

import sys

from extproc.demo.demo_runner import main

sys.exit(main())
