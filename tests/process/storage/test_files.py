"""A reader of an atomically written file, while the writer is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys


def test_a_reader_never_sees_half_a_file_even_when_the_writer_is_killed(tmp_path):
    size = 2**20
    path = tmp_path / "file"
    write = (
        "import sys, itertools; from pathlib import Path\n"
        "from stitch_sweep.storage.files import write_atomically\n"
        "for k in itertools.count():\n"
        f"    write_atomically(Path(sys.argv[1]), bytes([k % 256]) * {size})\n"
    )
    chance = random.Random(0)
    for _ in range(4):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", write, str(path)])
        try:
            seen = set()
            # At least two versions, then until a coin says stop.
            while len(seen) < 2 or chance.random() > 0.2:
                assert writer.poll() is None
                if path.exists():
                    data = path.read_bytes()
                    assert data == data[:1] * size
                    seen.add(data[0])
        finally:
            writer.kill()
        assert writer.wait() == -signal.SIGKILL
        data = path.read_bytes()
        assert data == data[:1] * size
