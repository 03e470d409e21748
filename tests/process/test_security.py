"""What a stranger can reach, what a foreign file can do, and what a message gives away."""

from __future__ import annotations

import ast
import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "stitch_sweep"

LISTENING = """
import json, os
from pathlib import Path
from stitch_sweep.config.models import ResourcesConfig
from stitch_sweep.sweep import resources

resources.set_environment()
resources.connect(None, ResourcesConfig())
import ray

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


_UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def dangers(source: str) -> list[str]:
    """Calls that could run what a file holds, or hand text to a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            # `torch.load` has to be seen as such, and the others have no use here.
            hidden = modules[0] == "torch" and "load" in modules[1:]
            if hidden or _UNPICKLERS.intersection(m.split(".")[-1] for m in modules):
                found.append(f"line {node.lineno}: import")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            name.split(".")[-1] in ("read_pickle", "popen", "Unpickler", "unsafe_load")
            or name
            in (
                "os.system",
                "eval",
                "exec",
                "pickle.load",
                "pickle.loads",
                "joblib.load",
                "dill.load",
            )
            or (name == "torch.load" and keywords.get("weights_only") != "True")
            or (name in ("np.load", "numpy.load") and keywords.get("allow_pickle") == "True")
            or keywords.get("shell") == "True"
            or (name == "yaml.load" and "_Loader" not in keywords.get("Loader", ""))
        ):
            found.append(f"line {node.lineno}: {name}")
    return found


def test_nothing_is_unpickled_and_no_shell_is_asked():
    found = {str(p): dangers(p.read_text()) for p in sorted(PACKAGE.rglob("*.py"))}
    assert len(found) > 100
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "pickle.load(file)",
        "pd.read_pickle(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "from pickle import loads",
        "import cloudpickle",
        "from ray import cloudpickle as serializer",
        "from torch import load",
    ],
)
def test_what_would_do_so_is_found(planted):
    assert len(dangers(planted)) == 1
