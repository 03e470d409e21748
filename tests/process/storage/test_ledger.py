"""The ledger's lock across processes, and the imports of the status command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stitch_sweep.storage.ledger import Ledger
from stitch_sweep.storage.ledger_lock import LedgerBusyError


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = (
        "import sys; from stitch_sweep.storage.ledger import Ledger; lock = Ledger(sys.argv[1]).lock();"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LedgerBusyError, match=f"process {holder.pid}"):
            Ledger(tmp_path).lock()
        holder.kill()
        holder.wait()
        with Ledger(tmp_path).lock():
            pass


def test_status_needs_no_heavy_library():
    code = (
        "import sys, stitch_sweep.storage.status;"
        "print({'torch', 'ray', 'pandas', 'optuna', 'pydantic'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
