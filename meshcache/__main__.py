"""``python -m meshcache``: the same as the command ``meshcache``."""

import sys

from meshcache.cli import main

sys.exit(main())
