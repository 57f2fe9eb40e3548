"""Run a program that reaches only its own folder and the files that it is given.

    python -I ci/confined.py FOLDER [READABLE ...] -- PROGRAM [ARGUMENT ...]

The program is code that this commit did not review, and the processes that start it have secrets in their environment,
in /proc/PID/environ. Landlock, which needs no privileges and works in a container, keeps the program from the memory and
the environment of other processes, from TCP and from all files except FOLDER (to write), READABLE, Python and the
system's libraries (to read). A kernel without Landlock gives it a user namespace of its own, or, if that is not permitted
either, takes root's capabilities: both keep other processes' environments from it, but not files.

Needs no package of Python. Exit code: the program's; 2 if nothing keeps it from these environments.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
# linux/prctl.h, linux/sched.h
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CLONE_NEWUSER = 24, 38, 0x10000000
LAST_POSSIBLE_CAPABILITY = 63
# linux/landlock.h; the numbers of the calls are the same on amd64 and arm64.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION, RULE_PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
# The number of rights to files that each version knows, the network's from version 4, signals and sockets from 6.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
BIND_AND_CONNECT_TCP, ABSTRACT_SOCKETS_AND_SIGNALS = 0b11, 0b11
# /proc and /sys tell the libraries of the processors and of the memory.
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/proc", "/sys", "/dev/urandom", "/dev/null")


class Ruleset(ctypes.Structure):
    """What Landlock handles, struct landlock_ruleset_attr."""

    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class PathBeneath(ctypes.Structure):
    """The rights to a file or to everything below a folder, struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def landlock_version() -> int:
    """Return the version of Landlock in this kernel, or 0 if it has none."""
    return max(0, LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION))


def restrict(folder: str, readable: list[str]) -> None:
    """Restrict this process and all that it starts, by Landlock. Raises OSError."""
    version = landlock_version()
    # Names of files are no secrets, and Python lists the folders that it imports from.
    every = (1 << FILE_RIGHTS.get(version, 16)) - 1 & ~READ_DIR
    network = BIND_AND_CONNECT_TCP if version >= 4 else 0
    scoped = ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    handled = Ruleset(every, network, scoped)
    ruleset = _checked(LIBC.syscall(CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0))
    rights = dict.fromkeys([*SYSTEM, sys.prefix, sys.base_prefix, *readable], READ_FILE | EXECUTE)
    rights |= {"/dev/null": READ_FILE | WRITE_FILE, folder: every}
    for path in filter(os.path.exists, rights):
        rule = PathBeneath(rights[path], os.open(path, os.O_PATH | os.O_CLOEXEC))
        _checked(LIBC.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0))
    _checked(LIBC.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main() -> None:
    """Restrict this process and become the program."""
    (folder, *readable), program = _split(sys.argv[1:])
    _checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for capability in range(LAST_POSSIBLE_CAPABILITY + 1):
        # Fails for a capability that this kernel does not know, and for all without privileges: then there are none.
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if landlock_version():
        restrict(folder, readable)
    elif LIBC.unshare(CLONE_NEWUSER) and os.geteuid():
        sys.exit(_refusal())
    os.execv(program[0], program)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    end = arguments.index("--")
    return arguments[:end], arguments[end + 1 :]


def _refusal() -> int:
    name = Path(__file__).name
    print(f"{name}: neither Landlock nor user namespaces keep this job's secrets from the program", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
