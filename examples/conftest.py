"""Makes every example importable from the workspace's test run; alone, each sets `pythonpath`."""

import sys
from pathlib import Path

for source in sorted(Path(__file__).parent.glob("*/src")):
    sys.path.insert(0, str(source))
