"""`python -m gen_worker.discover`: another name of `python -m gen_worker.discovery`."""

import sys

from gen_worker.discovery.command import main

if __name__ == "__main__":
    sys.exit(main())
