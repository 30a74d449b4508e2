"""Becomes another program: perhaps as another user, perhaps tied to its parent's life.

Run by path in a bare interpreter (`python -I -S launcher.py …`), so that nothing of this has to happen between
fork and exec of a process with threads. Imports the standard library only, and nothing of ours.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import signal
import struct
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522
# linux/capability.h. The first only reads and walks through folders; containers often withhold it and leave the second.
CAP_DAC_READ_SEARCH = 2
CAP_DAC_OVERRIDE = 1
CAP_SETPCAP = 8

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *padded) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def permitted_capabilities() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def set_capabilities(mask: int) -> None:
    """Makes `mask` the effective, permitted and inheritable set of this process."""
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    low = mask & 0xFFFFFFFF
    high = mask >> 32
    data = struct.pack("6I", low, low, low, high, high, high)
    if libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def reaches(user: pwd.struct_passwd, paths: list[str]) -> bool:
    """Whether the user gets to all paths with nothing but its own rights."""
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        return all(os.access(path, os.X_OK | os.R_OK, effective_ids=True) for path in paths)
    finally:
        os.seteuid(0)
        os.setegid(0)


def become(user: pwd.struct_passwd, paths: list[str]) -> None:
    """Gives up root for good, keeping one right to pass closed folders only where the user needs it."""
    os.setgroups([])
    capability = None
    if not reaches(user, paths):
        permitted = permitted_capabilities()
        usable = [c for c in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if permitted >> c & 1]
        if not usable or not permitted >> CAP_SETPCAP & 1:
            sys.exit(
                f"{user.pw_name} cannot reach {' or '.join(paths)}, and root lacks the right to let it; run as an "
                "ordinary user, or from folders open to all"
            )
        capability = usable[0]
        prctl(PR_SET_KEEPCAPS, 1)
        # Or access(2), by which initdb looks for its programs, would answer as if the right were not there.
        prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if capability is not None:
        set_capabilities(1 << capability)
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
    os.environ.update(USER=user.pw_name, LOGNAME=user.pw_name, HOME=user.pw_dir)


def die_with(parent_pid: int) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", help="become this user")
    parser.add_argument("--reach", action="append", default=[], help="a path which that user has to get to")
    parser.add_argument("--parent", type=int, help="get SIGTERM when this parent dies")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if arguments.user:
        become(pwd.getpwnam(arguments.user), arguments.reach)
    if arguments.parent:
        die_with(arguments.parent)  # after the change of user, which clears it
    if arguments.user:
        os.umask(0o077)
    os.execv(arguments.command[0], arguments.command)


if __name__ == "__main__":
    main()
