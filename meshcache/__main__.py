"""``python -m meshcache``: the same as the command ``meshcache``."""

import sys

from meshcache.cli.main import main

sys.exit(main())
