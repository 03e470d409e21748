"""`stitch-sweep` as a process: its exit status, and the libraries that it loads."""

import subprocess
import sys


def test_the_command_itself_ends_so_too(tmp_path):
    (tmp_path / "config.yml").write_text("seed: [\n")
    ended = subprocess.run(
        [sys.executable, "-c", "from stitch_sweep.cli.main import main; main()", "sweep", "config.yml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: config.yml: line 2, column 1: is not valid YAML")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]


def test_importing_the_package_loads_no_library():
    code = "import stitch_sweep, sys; print(sorted({'torch', 'pandas', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
