"""Run a program that reaches only its own folder and the files that it is given.

    python -I ci/confined.py FOLDER [READABLE ...] -- PROGRAM [ARGUMENT ...]

Nobody has reviewed the program's code, and the processes that start it have secrets in their environment, which is in
/proc/PID/environ. Landlock needs no privileges and works in a container. It keeps the program from memory and
environment of other processes, from TCP, and from all files except FOLDER (to write) and READABLE, Python and the
system's libraries (to read). A kernel without Landlock gives it a user namespace of its own, or, if that is not
permitted either, takes root's capabilities. Both keep the environment of other processes from it, but not files.

Needs no package of Python. Exit code: the program's; 2 if nothing keeps it from these environments.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

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


def landlock_version() -> int:
    """Return the version of Landlock in this kernel, or 0 if it has none."""
    version: int = LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)
    return max(0, version)


def restrict(folder: str, readable: list[str]) -> None:
    """Restrict this process and all that it starts, by Landlock. Raises OSError."""
    version = landlock_version()
    # Names of files are no secrets, and Python lists the folders that it imports from.
    every = (1 << FILE_RIGHTS.get(version, 16)) - 1 & ~READ_DIR
    network = BIND_AND_CONNECT_TCP if version >= 4 else 0
    scoped = ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    # struct landlock_ruleset_attr
    handled = struct.pack("=QQQ", every, network, scoped)
    ruleset = _checked(LIBC.syscall(CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0))
    rights = dict.fromkeys([*SYSTEM, sys.prefix, sys.base_prefix, *readable], READ_FILE | EXECUTE)
    rights |= {"/dev/null": READ_FILE | WRITE_FILE, folder: every}
    for path in filter(os.path.exists, rights):
        # struct landlock_path_beneath_attr, which is packed
        rule = struct.pack("=Qi", rights[path], os.open(path, os.O_PATH | os.O_CLOEXEC))
        _checked(LIBC.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0))
    _checked(LIBC.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main(arguments: list[str]) -> None:
    """Restrict this process and become the program."""
    end = arguments.index("--")
    (folder, *readable), program = arguments[:end], arguments[end + 1 :]
    _checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    for capability in range(LAST_POSSIBLE_CAPABILITY + 1):
        # Fails for a capability that this kernel does not know, and without privileges: then there is none to take.
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if landlock_version():
        restrict(folder, readable)
    elif LIBC.unshare(CLONE_NEWUSER) and os.geteuid():
        message = "neither Landlock nor user namespaces keep this job's secrets from the program"
        print(f"confined.py: {message}", file=sys.stderr)
        sys.exit(2)
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
