"""No command that reads a folder opens a connection or writes outside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.faults import can_split
from tests.support.foreign_folders import RECIPE, rewrite
from tests.support.paths import ROOT
from tests.support.reports import make_folder

RECORD = r"""
import json, os, runpy, socket, subprocess, sys, threading, time
for command in ("ip link set lo up", "ip link add out type veth peer name far",
                "ip link set far up", "ip link set out arp off up",
                "ip addr add 10.1.1.1/24 dev out", "ip route add default dev out"):
    subprocess.run(command.split(), check=True)
# Record every frame of every device, loopback included, but no ICMPv6: the kernel sends it by itself.
recorder = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
recorder.setblocking(False)
def frames():
    found = []
    while True:
        try:
            frame = recorder.recv(65536)
        except BlockingIOError:
            return found
        kind = frame[12:14]
        if kind == b"\x08\x00" or (kind == b"\x86\xdd" and frame[20] in (6, 17)):
            found.append(frame[14:54].hex())
listener = socket.create_server(("127.0.0.1", 5999))
frames()
# Datagrams alone: what a connection leaves behind would arrive later.
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.bind(("", 5998))
probe.sendto(b"x", ("127.0.0.1", 5998))
probe.sendto(b"x", ("192.0.2.1", 53))
seen = frames()
assert any(f[32:40] == "c0000201" for f in seen) and any(f[32:40] == "7f000001" for f in seen), seen
from stitch_sweep.cli.main import main
statuses = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["stitch-sweep", *arguments]
    try:
        main()
    except SystemExit as ended:
        statuses.append(ended.code)
print(json.dumps({"statuses": statuses, "frames": frames()}))
"""


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def hostile_folder(folder: Path) -> Path:
    """Make a sweep's folder that names servers, downloads and places outside it."""
    server = "http://127.0.0.1:5999"
    make_folder(folder, losses=("task",), layers=2, measured=True, sanity=True,
                tracking={"uri": server, "experiment": "x", "enabled": True})  # fmt: skip
    shutil.rmtree(folder / "measured")
    published = [{"name": "a", "source": "torchvision", "model": "alexnet", "weights": "DEFAULT"},
                 {"name": "b", "source": "timm", "model": "resnet18", "weights": "a1_in1k"}]  # fmt: skip
    rewrite(
        folder,
        data={"name": "cifar10", "path": "~/stolen", "download": True},
        networks=published,
        zoo="~/zoo",
    )
    (folder / "zoo" / "net").mkdir(parents=True)
    (folder / "zoo" / "net" / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "m.csv").write_text("0.9,0.1\n0.9,0.9\n")
    other = make_folder(
        folder / "second",
        losses=("task",),
        layers=2,
        tracking={"uri": f"sqlite:///{folder}/../x.db"},
    )
    rewrite(other, networks=published, zoo="../../zoo")
    return folder


def home_with_credentials(home: Path) -> None:
    for name, text in {
        ".mlflow/credentials": "[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = p\n",
        ".aws/credentials": "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s\n",
        ".config/gcloud/application_default_credentials.json": '{"type": "authorized_user"}',
        ".azure/azureProfile.json": "{}",
        ".netrc": "default login me password p\n",
        ".databrickscfg": "[DEFAULT]\nhost = http://127.0.0.1:5999\ntoken = t\n",
        ".cache/huggingface/token": "hf_x",
    }.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.skipif(
    not can_split(), reason="needs network namespaces, which this user may not make"
)
def test_no_reading_command_connects_or_writes_elsewhere(tmp_path):
    folder = hostile_folder(tmp_path / "downloads" / "sweep")
    home, working, caches = (tmp_path / name for name in ("home", "here", "caches"))
    for place in (home, working, caches):
        place.mkdir()
    home_with_credentials(home)
    (working / "mlflow.db").write_text("mine")
    outside = [*(tree(place) for place in (home, working)), names(folder.parent)]
    commands = [
        ["status", folder],
        ["analyze", folder, folder / "second"],
        ["analyze", "--matrix", folder / "m.csv", "--receiver-accuracy", "0.9"],
        ["zoo", "list", folder / "zoo"],
        ["determinism", "compare", folder, folder / "second"],
    ]
    server = "http://127.0.0.1:5999"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", RECORD, json.dumps(commands, default=str)],
        cwd=working,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(home),
            "MPLCONFIGDIR": str(caches),
            "MLFLOW_TRACKING_URI": server,
            "MLFLOW_TRACKING_TOKEN": "t",
            "MLFLOW_S3_ENDPOINT_URL": server,
            "AWS_ACCESS_KEY_ID": "AKIA",
            "AWS_SECRET_ACCESS_KEY": "s",
            "GOOGLE_APPLICATION_CREDENTIALS": str(home / ".config/gcloud/x.json"),
            "AZURE_STORAGE_CONNECTION_STRING": "x",
            "HF_TOKEN": "hf_x",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["frames"] == [], done.stdout + done.stderr
    assert result["statuses"] == [0, 0, 0, 0, 2], done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert [*(tree(place) for place in (home, working)), names(folder.parent)] == outside
