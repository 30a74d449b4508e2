#!/usr/bin/env python
"""Django's commands; where the environment names no servers, the embedded ones run for as long as the command."""

import os
import signal
import sys
from contextlib import nullcontext
from types import FrameType

from relayadmin import embedded

# These read nothing from a server.
WITHOUT_SERVERS = {"help", "version", "--help", "-h", "--version", "compilemessages", "makemessages", "collectstatic"}


def leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM as an exception, so that what was started is stopped on the way out."""
    raise SystemExit(128 + number)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "relayadmin.settings")
    from django.core.management import execute_from_command_line

    if len(sys.argv) < 2 or sys.argv[1] in WITHOUT_SERVERS:
        servers = nullcontext()
    else:
        signal.signal(signal.SIGTERM, leave)
        try:
            servers = embedded.attach()
        except embedded.EmbeddedError as error:
            sys.exit(f"relayadmin: {error}")
    with servers:
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
