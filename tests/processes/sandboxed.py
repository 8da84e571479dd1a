"""Runs a program with the system calls that a unit allows: `sandboxed.py UNIT PROGRAM [ARGUMENT ...]`; no root needed.

What systemd would set up without privileges of its own: SystemCallFilter, MemoryDenyWriteExecute, NoNewPrivileges.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38


def system_calls(group: str) -> set[str]:
    """The names of the calls of a group, such as @system-service."""
    lines = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = [line.strip() for line in lines[1:] if line.strip() and not line.strip().startswith("#")]
    return {call for name in names for call in (system_calls(name) if name.startswith("@") else {name})}


def main(unit: Path, command: list[str]) -> None:
    """Replace this process by that program."""
    import seccomp

    settings = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line)
    allowed = seccomp.SyscallFilter(seccomp.ERRNO(getattr(errno, settings["SystemCallErrorNumber"])))
    for call in sorted(system_calls(settings["SystemCallFilter"])):
        try:
            allowed.add_rule(seccomp.ALLOW, call)
        except RuntimeError:  # not of this architecture
            continue
    libc = ctypes.CDLL(None, use_errno=True)
    if settings["NoNewPrivileges"] == "yes" and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if settings.get("MemoryDenyWriteExecute") == "yes":  # as systemd does it where the kernel cannot
        both = mmap.PROT_WRITE | mmap.PROT_EXEC
        exclusive = seccomp.SyscallFilter(seccomp.ALLOW)
        exclusive.add_rule(seccomp.ERRNO(errno.EPERM), "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            gains = seccomp.Arg(2, seccomp.MASKED_EQ, mmap.PROT_EXEC, mmap.PROT_EXEC)
            exclusive.add_rule(seccomp.ERRNO(errno.EPERM), call, gains)
        exclusive.load()
    allowed.load()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
