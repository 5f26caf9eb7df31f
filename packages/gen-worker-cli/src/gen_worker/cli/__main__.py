"""`python -m gen_worker.cli` is the same as `gen-worker`."""

import sys

from gen_worker.cli import main

sys.exit(main())
