"""The `jetblock` command: the same as the Rust binary, run inside Python."""

import signal
import sys
from typing import NoReturn

from jetblock import _core


def main() -> NoReturn:
    """Runs the command line of this process and exits with its code."""
    # Ctrl-C ends the command as it ends any program. Python's own handler would wait until Rust comes back.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_core.run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
