"""The program that runs in the place of Ray's agents: it does nothing until the raylet ends.

A raylet starts an agent for the dashboard and one for runtime environments, and is ready when they
have written the numbers of their ports. Both take a second of imports, and a sweep on one machine uses
neither. This program writes the numbers of ports that it keeps occupied, so that no other process
answers there. It imports the standard library only.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

_PORTS = {
    "agent.py": ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"),
    "main.py": ("runtime_env_agent_port",),
}
"""Names of the ports, by the file of Ray's own agent."""


def main() -> None:
    """Write the files that the raylet waits for, and wait for its end."""
    program = Path(sys.argv[1]).name
    options = dict(word[2:].split("=", 1) for word in sys.argv[2:] if "=" in word)
    folder, node = Path(options["session-dir"]), options["node-id"]
    sockets = []
    for name in _PORTS[program]:
        reserved = socket.socket()
        reserved.bind(("127.0.0.1", 0))  # without `listen`, every connection is refused
        sockets.append(reserved)
        file = folder / f"{name}_{node}"
        fresh = file.with_name(f"{file.name}.new")
        fresh.write_text(str(reserved.getsockname()[1]))
        fresh.replace(file)
    sys.stdin.buffer.read()  # the raylet holds the other end


if __name__ == "__main__":
    main()
