"""``python -m orchestrator``. It ends without taking apart what it has loaded: that is a sixth of a command's time."""

import os
import sys
from contextlib import suppress

from orchestrator.cli import main

if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            # Where nobody reads the output any more, the ordinary way to end says so.
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(ended.code or 0)
        raise
