"""The package unpickles nothing and calls no shell."""

from __future__ import annotations

import ast

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "stitch_sweep"


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
