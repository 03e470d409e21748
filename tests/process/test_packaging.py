"""Requirements, constraints, Makefile, CI and citation agree with each other."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def build_by_name(lines: list[str]) -> dict[str, tuple[frozenset[str], str]]:
    """Parse requirement lines into {normalized name: (extras, specifier)}."""
    named: dict[str, tuple[frozenset[str], str]] = {}
    for requirement in map(Requirement, lines):
        # A package may be listed twice, with different extras.
        name, specifier = canonicalize_name(requirement.name), str(requirement.specifier)
        extras, before = named.get(name, (frozenset(), specifier))
        specifier = str(SpecifierSet(specifier) & SpecifierSet(before))
        named[name] = (extras | requirement.extras, specifier)
    return named


def environment_faults(project: dict, environment: dict) -> list[str]:
    """Return a line for each difference of environment.yml and pyproject.toml."""
    wanted = build_by_name(project["dependencies"] + project["optional-dependencies"]["dev"])
    plain = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    listed = build_by_name(pip)
    faults = [f"{name} is missing in environment.yml" for name in sorted(wanted.keys() - listed)]
    faults += [f"{name} is not in pyproject.toml" for name in sorted(listed.keys() - wanted)]
    faults += [
        f"{name}: {listed[name]} in environment.yml, {wanted[name]} in pyproject.toml"
        for name in sorted(wanted.keys() & listed)
        if wanted[name] != listed[name]
    ]
    if len(pip) != len(listed):
        faults.append("environment.yml lists a package twice")
    python = [line.removeprefix("python=") for line in plain if line.startswith("python=")]
    if (
        not python
        or Version(python[0]) not in Requirement("p" + project["requires-python"]).specifier
    ):
        faults.append(f"python {python} against {project['requires-python']}")
    return faults


def constraint_faults(project: dict, constraints: str) -> list[str]:
    """Return a line for each problem of constraints.txt."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    exact = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.]*)")
    faults = [f"not NAME==VERSION: {line}" for line in lines if not exact.fullmatch(line)]
    matches = [match for line in lines if (match := exact.fullmatch(line))]
    pinned = {canonicalize_name(match[1]): Version(match[2]) for match in matches}
    if len(pinned) != len(matches):
        faults.append("a package is pinned twice")
    if canonicalize_name(project["name"]) in pinned:
        faults.append("the project pins itself")
    extras = project["optional-dependencies"].values()
    for line in project["dependencies"] + [line for extra in extras for line in extra]:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            faults.append(f"{requirement.name} is not pinned")
        elif version not in requirement.specifier:
            faults.append(f"{requirement.name}=={version} is not {requirement.specifier}")
    return faults


def test_environment_agrees_with_pyproject():
    assert environment_faults(PROJECT, ENVIRONMENT) == []
    assert ENVIRONMENT["name"] == PROJECT["name"]
    assert ENVIRONMENT["channels"] == ["conda-forge"]


def drop(line):
    return lambda lines: lines.remove(line)


def swap(old, new):
    return lambda lines: lines.__setitem__(lines.index(old), new)


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (drop("torch>=2.11"), "torch is missing"),
        (drop("pytest>=9"), "pytest is missing"),
        (swap("optuna>=5.0", "optuna>=4.0"), "optuna: "),
        (swap("numpy>=2.0", "numpy"), "numpy: "),
        (swap("ray[default,tune]>=2.60", "ray[tune]>=2.60"), "ray: "),
        (lambda lines: lines.append("requests>=2"), "requests is not in pyproject.toml"),
        (lambda lines: lines.append("Torch>=2.11"), "twice"),
    ],
)
def test_a_difference_between_the_two_is_found(edit, fault):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    edit(pip)
    (found,) = environment_faults(PROJECT, environment)
    assert fault in found


def test_a_python_that_is_too_old_is_found():
    conda = [line for line in ENVIRONMENT["dependencies"] if line != "python=3.11"]
    for line in ([], ["python=3.10"]):
        (found,) = environment_faults(PROJECT, {"dependencies": line + conda})
        assert found.startswith("python")


def test_constraints_pin_every_direct_dependency():
    assert constraint_faults(PROJECT, CONSTRAINTS) == []


@pytest.mark.parametrize(
    ("pattern", "replacement", "fault"),
    [
        (r"^torch==.*$", "", "torch is not pinned"),
        (r"^optuna==.*$", "optuna==4.6.0", "optuna==4.6.0 is not >=5.0"),
        (r"^ruff==.*$", "ruff>=0.15", "not NAME==VERSION: ruff>=0.15"),
        (r"\Z", "left-pad @ https://example.org/left.whl", "not NAME==VERSION"),
        (r"\Z", "--index-url https://example.org", "not NAME==VERSION"),
        (r"\Z", "-e .", "not NAME==VERSION"),
        (r"\Z", "attrs==1.0 --hash=sha256:00", "not NAME==VERSION"),
        (r"\Z", "stitch-sweep==0.1.0", "pins itself"),
        (r"\Z", "Torch==2.15.0", "twice"),
    ],
)
def test_a_fault_in_the_constraints_is_found(pattern, replacement, fault):
    text = re.sub(pattern, replacement, CONSTRAINTS, count=1, flags=re.MULTILINE)
    assert text != CONSTRAINTS
    assert any(fault in found for found in constraint_faults(PROJECT, text))


def test_ci_runs_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^[ $]*(make [a-z-]+)", readme, flags=re.MULTILINE)
    assert commands[:2] == ["make quickstart", "make test"]
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert "make ffcv" in lines
    assert "make lint" in lines
    assert "make docs" in lines
    assert "make test" in lines
    assert "make test-process" in lines
    assert "make test-cluster" in lines


class Ci:
    """A folder with .ci/run, a Makefile that only records its targets, and replaced commands."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tools = folder / "tools"
        (folder / ".ci").mkdir()
        self.tools.mkdir()
        shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
        self.log = folder / "log"
        self.provide("g++", "exit 0")
        self.provide("apt-get", f'echo "apt-get $*" >> {self.log}')
        self.provide("pkg-config", "exit 0")
        self.provide("python3", "exit 0")
        self.provide("chromium", "exit 0")
        self.provide("chromedriver", "exit 0")
        self.provide("id", "echo 0")

    def provide(self, tool: str, does: str) -> None:
        """Replace a command of the machine."""
        (self.tools / tool).write_text(f"#!/bin/sh\n{does}\n")
        (self.tools / tool).chmod(0o755)

    def run(
        self, failing: str = "", status: int = 0
    ) -> tuple[subprocess.CompletedProcess, list[str]]:
        """Run .ci/run; return its result and the recorded steps."""
        self.log.write_text("")
        (self.folder / "Makefile").write_text(
            'ffcv lint docs test test-process test-cluster:\n\t@echo "make $@ $$STITCH_SWEEP_REQUIRE_FFCV'
            f'$$STITCH_SWEEP_REQUIRE_BROWSER" >> {self.log}\n'
            f"\t@test $@ != '{failing}' || exit {status}\n"
        )
        required = ("STITCH_SWEEP_REQUIRE_FFCV", "STITCH_SWEEP_REQUIRE_BROWSER")
        dropped = ("PYTHON", *required, "MAKEFLAGS")
        kept = {k: v for k, v in os.environ.items() if k not in dropped}
        ran = subprocess.run(
            [self.folder / ".ci" / "run"],
            env={**kept, "PATH": f"{self.tools}:{os.environ['PATH']}", "CI": "true"},
            capture_output=True,
            text=True,
        )
        return ran, [line.strip() for line in self.log.read_text().splitlines()]


@pytest.fixture
def ci(tmp_path):
    return Ci(tmp_path)


TIERS = ["make test", "make test-process", "make test-cluster"]
MADE = ["make ffcv", "make lint 11", "make docs 11", *(f"{tier} 11" for tier in TIERS)]
LIBRARIES = "g++ pkg-config python3-dev libopencv-dev libturbojpeg0-dev"


def test_ci_fails_where_the_tests_fail(ci):
    for status, name in [
        (0, "lint"),
        (3, "test"),
        (3, "test-process"),
        (3, "test-cluster"),
        (3, "lint"),
        (3, "docs"),
        (3, "ffcv"),
    ]:
        ran, _ = ci.run(failing=name, status=status)
        assert (ran.returncode == 0) == (status == 0), ran.stderr
        assert ("all passed" in ran.stdout) == (status == 0)


def test_ci_installs_nothing_where_all_is_there_and_demands_the_tests_of_ffcv_and_browser(ci):
    assert ci.run()[1] == MADE


@pytest.mark.parametrize(
    ("tool", "packages"),
    [("pkg-config", LIBRARIES), ("python3", "make python3 python3-venv")],
)
def test_ci_installs_what_is_missing(ci, tool, packages):
    ci.provide(tool, "exit 1")
    ran, done = ci.run()
    assert ran.returncode == 0
    install = f"apt-get install --yes --no-install-recommends {packages}"
    assert done[:2] == ["apt-get update", install]
    assert done[-len(MADE) :] == MADE


def test_ci_says_what_it_cannot_install(ci):
    ci.provide("id", "echo 1000")
    ci.provide("pkg-config", "exit 1")
    ran, done = ci.run()
    assert ran.returncode == 1
    assert f"for FFCV (Debian: {LIBRARIES})" in ran.stderr
    assert "not root, or no apt-get" in ran.stderr
    assert done == []


# A replacement of Python that tests the Makefile's logic without any installation. It records its
# calls, creates "environments" from copies of itself, and its pip returns a given exit status.
STAND_IN = f"""#!/bin/sh
echo "${{0##*/}} $*" >> "$CALLS"
case "$*" in
  *"-m pip"*" install "*) exit "$PIP_STATUS" ;;
  "-m venv --clear "*)
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && cp "$0" "$4/bin/stitch-sweep" ;;
  *version_info*) exec '{sys.executable}' -c "import sys; sys.version_info = ($VERSION); ${{2}}" ;;
  *ensurepip*) exit "$VENV_STATUS" ;;
esac
"""
QUICKSTART = "stitch-sweep sweep experiments/quickstart/digits/config.yml --resume"


class Copy:
    """A folder with the Makefile, and `make` with the replacement as its Python."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls = folder / "calls"
        self.python = folder / "fake-python"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)

    def make(self, *arguments, version="3, 11, 2", pip=0, venv=0):
        """Run make; return its output and the calls of Python that changed something."""
        self.calls.write_text("")
        own = ("MAKE", "MFLAGS", "ARGS", "WORKERS")  # variables of a make that runs this test
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        told = {"VERSION": version, "PIP_STATUS": str(pip), "VENV_STATUS": str(venv)}
        ran = subprocess.run(
            ["make", f"PYTHON={self.python}", *arguments],
            cwd=self.folder,
            env=inherited | told | {"CALLS": str(self.calls)},
            capture_output=True,
            text=True,
        )
        calls = self.calls.read_text().splitlines()
        probes = ("-m pip --version", "python -c ")
        return ran, [call for call in calls if not any(probe in call for probe in probes)]


PIP = "python -m pip --disable-pip-version-check install -c constraints.txt -e "
VENV = "fake-python -m venv --clear .venv"


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def test_make_help_lists_the_targets(copy):
    ran, calls = copy.make()
    targets = re.findall(r"^  make ([a-z-]+) +\S", ran.stdout, flags=re.MULTILINE)
    assert {
        "help",
        "quickstart",
        "test",
        "test-process",
        "test-cluster",
        "test-all",
        "lint",
        "docs",
        "bench",
        "ffcv",
        "wheel",
        "wheel-test",
        "test-lowest",
    } <= set(targets)
    assert calls == []


def test_make_installs_once(copy):
    assert copy.make("quickstart")[1] == [VENV, PIP + ".", QUICKSTART]
    assert copy.make("quickstart")[1] == [QUICKSTART]
    pytest = "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "
    test = f"{pytest}-m not long tests/unit"
    assert [call.strip() for call in copy.make("test")[1]] == [PIP + ".[dev]", test]
    assert [call.strip() for call in copy.make("test")[1]] == [test]
    for tier in ("process", "cluster"):
        (call,) = copy.make(f"test-{tier}")[1]
        assert call.strip() == f"{pytest}-m not long tests/{tier}"
    assert copy.make("test-all")[1][0].strip() == f"{pytest}tests"
    os.utime(copy.folder / "pyproject.toml", (4e9, 4e9))
    assert copy.make("quickstart")[1] == [PIP + ".", QUICKSTART]


def test_make_ffcv_installs_it_once(copy):
    assert copy.make("ffcv")[1] == [VENV, PIP + ".", PIP + ".[ffcv]"]
    assert copy.make("ffcv")[1] == []
    assert copy.make("quickstart")[1] == [QUICKSTART]


def test_make_ffcv_says_what_it_is_compiled_against(copy):
    copy.make("quickstart")
    ran, calls = copy.make("ffcv", pip=1)
    assert ran.returncode != 0
    assert calls == [PIP + ".[ffcv]"]
    assert f"Debian: apt-get install {LIBRARIES}" in ran.stderr
    assert copy.make("ffcv")[1] == [PIP + ".[ffcv]"]


def test_make_test_needs_nothing_before_it(copy):
    ran, calls = copy.make("test")
    assert ran.returncode == 0
    assert calls[:3] == [VENV, PIP + ".", PIP + ".[dev]"]


def test_an_interrupted_installation_is_taken_up_again(copy):
    ran, calls = copy.make("quickstart", pip=1)
    assert ran.returncode != 0
    assert calls == [VENV, PIP + "."]
    assert copy.make("quickstart")[1] == [PIP + ".", QUICKSTART]


def test_a_half_made_environment_is_made_anew(copy):
    (copy.folder / ".venv" / "bin").mkdir(parents=True)
    (copy.folder / ".venv" / "bin" / "python").symlink_to("gone")
    assert copy.make("quickstart")[1] == [VENV, PIP + ".", QUICKSTART]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "3, 10, 9"}, r"needs Python 3\.11 or newer, and .*fake-python is 3\.10"),
        ({"version": "2, 7, 18"}, r"needs Python 3\.11 or newer, and .*fake-python is 2\.7"),
        ({"venv": 1}, r"apt install python3-venv"),
    ],
)
def test_an_unfit_python_is_named(copy, options, message):
    ran, calls = copy.make("quickstart", **options)
    assert ran.returncode != 0
    assert re.search(message, ran.stderr)
    assert calls == []
    assert not (copy.folder / ".venv").exists()


def test_a_missing_python_is_named(copy):
    copy.python.unlink()
    ran, _ = copy.make("quickstart")
    assert ran.returncode != 0
    assert "was not found. Install Python 3.11" in ran.stderr


def test_bench_runs_every_script_and_tells_of_a_failure(copy):
    (copy.folder / "benchmarks").mkdir()
    for name in ("b.py", "a.py", "_shared.py"):
        (copy.folder / "benchmarks" / name).touch()
    ran, calls = copy.make("bench")
    assert ran.returncode == 0
    assert calls[-2:] == ["python benchmarks/a.py", "python benchmarks/b.py"]
    (copy.folder / ".venv" / "bin" / "python").write_text(
        "#!/bin/sh\ncase $1 in *a.py) exit 1; esac\n"
    )
    ran, _ = copy.make("bench")
    assert ran.returncode != 0
    assert "== benchmarks/b.py" in ran.stdout


def test_pre_commit_hooks_are_local():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = repos[0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy"}
    assert all(hook["language"] == "system" for hook in hooks)


def test_citation_has_the_required_fields():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_bytes())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "references", "keywords"} <= citation.keys()
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    for entry in [citation, *citation["references"]]:
        assert {"type", "title", "authors"} <= entry.keys()
        assert entry["authors"]
        for author in entry["authors"]:
            assert "name" in author or {"family-names", "given-names"} <= author.keys()
    numbers = {
        identifier["value"]
        for reference in citation["references"]
        for identifier in reference.get("identifiers", [])
    }
    stitching = {"2303.11277", "2106.07682", "1411.5908", "2110.14633", "1905.00414"}
    assert {f"arXiv:{number}" for number in stitching} <= numbers


def test_the_license_is_the_one_named():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


USER_IMAGE = (ROOT / "user.Dockerfile").read_text()


def user_image_faults(text: str) -> list[str]:
    """Return a line for each problem of the Dockerfile for a user's machine."""
    faults = []
    allowed = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    copied = [
        name
        for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    faults += [f"{name} is ignored or missing" for name in copied if name not in allowed]
    needed = {"pyproject.toml", "constraints.txt", "stitch_sweep", PROJECT["readme"]}
    faults += [f"{name} is not copied" for name in sorted({*needed, "LICENSE"} - set(copied))]
    lines = text.splitlines()
    if "USER stitcher" not in lines or "USER root" in lines:
        faults.append("the user is root")
    if lines.index("USER stitcher" if "USER stitcher" in lines else lines[0]) < max(
        k for k, line in enumerate(lines) if line.startswith("RUN ")
    ):
        faults.append("the user can't install")
    if 'ENTRYPOINT ["stitch-sweep"]' not in lines:
        faults.append("the entry point is not stitch-sweep")
    if "-c /src/constraints.txt" not in text:
        faults.append("installs other versions than those that CI uses")
    python = re.search(r"^FROM python:(3\.\d+)-", text, re.MULTILINE)
    if python is None or f"python={python[1]}" not in ENVIRONMENT["dependencies"]:
        faults.append("another Python than that of the constraints")
    return faults


def test_the_image_for_a_users_machine_is_of_this_folder_and_not_roots():
    assert user_image_faults(USER_IMAGE) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("python:3.11", "python:3.12", "another Python"),
        ("USER stitcher", "USER root", "the user is root"),
        ("LICENSE /src/", "/src/", "LICENSE is not copied"),
        ("COPY stitch_sweep", "COPY tests", "tests is ignored"),
        ("-c /src/constraints.txt ", "", "installs other versions"),
        ('ENTRYPOINT ["stitch-sweep"]', "", "the entry point"),
    ],
)
def test_a_fault_in_the_image_for_a_users_machine_is_found(old, new, fault):
    assert old in USER_IMAGE
    assert any(fault in found for found in user_image_faults(USER_IMAGE.replace(old, new, 1)))


def test_the_classifiers_name_pythons_that_are_allowed():
    named = [
        line.rpartition(" :: ")[2]
        for line in PROJECT["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert "3.11" in named
    assert all(Version(name) in SpecifierSet(PROJECT["requires-python"]) for name in named)
