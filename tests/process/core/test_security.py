"""Addresses that a local Ray listens on."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest

LISTENING = """
import json, os
from pathlib import Path
from stitch_sweep.config.resources import ResourcesConfig
from stitch_sweep.sweep.ray_connection import connect
from stitch_sweep.sweep.ray_setup import ray
connect(None, ResourcesConfig())

@ray.remote
class Worker:
    def pid(self):
        return os.getpid()

worker = Worker.remote()
ray.get(worker.pid.remote())
parents = {}
for stat in Path("/proc").glob("[0-9]*/stat"):
    try:
        parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        pass
family = {os.getpid()}
while more := {p for p, parent in parents.items() if parent in family} - family:
    family |= more
inodes = set()
for pid in family:
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
found = []
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            found.append(fields[1].partition(":")[0])
print(json.dumps({"processes": len(family), "addresses": found}))
"""


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel writes it: words of 32 bits, each in the machine's byte order."""
    words = [bytes.fromhex(text[k : k + 8])[::-1] for k in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return getattr(found, "ipv4_mapped", None) or found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_a_local_ray_listens_on_loopback_only():
    done = subprocess.run(
        [sys.executable, "-c", LISTENING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["processes"] > 4, "the server, the node, its agents, the worker"
    assert len(found["addresses"]) > 3
    assert [str(a) for a in map(address, found["addresses"]) if not a.is_loopback] == []
