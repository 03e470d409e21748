"""How the documents' pages are run, with planted faults."""

from __future__ import annotations

import pytest

from stitch_sweep.core.errors import InputError
from tests.support.documents import check_fragments, check_shell, read_blocks, run_page

PAGE = """# A page
Write `notes/one.txt.py`:

```python
print("from a file")
```

Add a line to `notes/one.txt.py`:

```python
print("and more")
```

```sh
# a comment
python notes/one.txt.py
echo one \\
    two
serve --forever
```

```
output
```

Python without a file, in two blocks:

```python
x = 40
```

```python
print(x + 2)
```

```yaml
training: {epochs: 2}
```
"""


def run(text, folder, **options):
    (folder / "page.md").write_text(text)
    return run_page(folder / "page.md", folder / "run", **options)


def test_blocks_are_files_scripts_and_commands(tmp_path):
    blocks = read_blocks(PAGE)
    assert [(b.language, b.file, b.append) for b in blocks] == [
        ("python", "notes/one.txt.py", False),
        ("python", "notes/one.txt.py", True),
        ("sh", "", False),
        ("", "", False),
        ("python", "", False),
        ("python", "", False),
        ("yaml", "", False),
    ]
    assert PAGE.splitlines()[blocks[0].line - 1] == "```python"
    printed = run(PAGE, tmp_path, skip=["serve"], replace={"x = 40": "x = 50"}, after="echo end")
    lines = [line for line in printed.splitlines() if not line.startswith(("$", "    "))]
    assert lines == ["from a file", "and more", "one two", "52", "end"]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("serve --forever", "false", "$ false"),
        ("print(x + 2)", "print(y)", "NameError"),
        ("echo one", "echo 'one", "unexpected EOF"),
    ],
)
def test_a_block_that_fails_is_found(tmp_path, old, new, found):
    skip = ["serve"] if "serve" not in old else []
    with pytest.raises(AssertionError) as caught:
        run(PAGE.replace(old, new), tmp_path, skip=skip)
    assert found in str(caught.value)


def test_a_fragment_that_the_parser_refuses_is_found(tmp_path):
    assert check_fragments(PAGE, tmp_path) == 1
    with pytest.raises(InputError, match="epoch"):
        check_fragments(PAGE.replace("epochs: 2", "epocs: 2"), tmp_path)


@pytest.mark.parametrize("stale", [{"skip": ["serve", "brew"]}, {"replace": {"x = 41": ""}}])
def test_a_skipped_or_replaced_text_that_the_page_lacks_is_found(tmp_path, stale):
    with pytest.raises(AssertionError, match="the page has no"):
        run(PAGE, tmp_path, **{"skip": ["serve"], **stale})


def test_shell_syntax_is_checked_also_where_nothing_runs():
    check_shell(PAGE)
    with pytest.raises(AssertionError, match="line 14"):
        check_shell(PAGE.replace("serve --forever", "if serve"))
