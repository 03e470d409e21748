"""Show the package a system that isn't POSIX: no fork, no `/proc`, no POSIX-only locks or signals.

A folder on PYTHONPATH gets this file as `sitecustomize.py`, so every Python of a test begins with it,
also workers. Only what modules of Stitch Sweep import is changed: libraries have code for each system.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Collection, Mapping
from typing import Any

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
HIDDEN = {
    "os": {
        *("fork", "forkpty", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "nice"),
        *("getuid", "geteuid", "getgid", "getegid", "getgroups", "getpgid", "setpgid", "setsid"),
        *("killpg", "chown", "lchown", "mkfifo", "statvfs", "uname", "getloadavg", "sysconf"),
        *("O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "pread", "posix_spawn"),
    },
    "signal": {
        *("SIGHUP", "SIGKILL", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "SIGPIPE"),
        *("alarm", "setitimer", "pthread_sigmask", "sigwait", "siginterrupt"),
    },
    "socket": {"AF_UNIX", "send_fds", "recv_fds"},
    "sys": set(),
}
CHANGED: dict[str, dict[str, Any]] = {"os": {"name": "nt"}, "sys": {"platform": "win32"}}


class OtherModule:
    """A module without some of its names, and with other values of some."""

    def __init__(
        self, module: types.ModuleType, hidden: Collection[str], changed: Mapping[str, Any]
    ) -> None:
        vars(self).update(changed, _module=module, _hidden=hidden)

    def __getattr__(self, name: str) -> Any:
        if name in self._hidden:
            raise AttributeError(f"{self._module.__name__} has no {name} on this system")
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)


def is_ours(module: object) -> bool:
    """Return whether a module's name is one of Stitch Sweep."""
    return str(module).split(".")[0] == "stitch_sweep"


def install() -> None:
    """Change what Stitch Sweep imports and opens from now on, in this process."""
    import_module = builtins.__import__
    others: dict[str, OtherModule] = {}

    def import_other(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if globals is None or not is_ours(globals.get("__name__")):
            return import_module(name, globals, locals, fromlist, level)
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = import_module(name, globals, locals, fromlist, level)
        if name not in HIDDEN:
            return module
        other = OtherModule(module, HIDDEN[name], CHANGED.get(name, {}))
        return others.setdefault(name, other)

    def refuse_proc(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.listdir", "os.scandir") or not arguments:
            return
        if not str(arguments[0]).startswith("/proc"):
            return
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__") in ("pathlib", "os", "io"):
            frame = frame.f_back
        if is_ours(frame.f_globals.get("__name__")):
            raise FileNotFoundError(2, "No such file or directory", arguments[0])

    builtins.__import__ = import_other
    sys.addaudithook(refuse_proc)


if __name__ == "sitecustomize":
    install()
