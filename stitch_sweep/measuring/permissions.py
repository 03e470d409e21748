"""Permissions of measuring: a folder's configuration may come from a stranger.

Measuring reads files below the experiment folder, the zoo of the project around it, and places that the
user names. It downloads nothing and runs no code of the configuration unless the user permits
it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any

from stitch_sweep.config.networks import LIBRARIES, NetworkConfig, is_file, is_in_memory
from stitch_sweep.config.paths import as_list
from stitch_sweep.config.places import expand_variables, find_root
from stitch_sweep.config.root import Config
from stitch_sweep.core import plugins
from stitch_sweep.core.errors import InputError, nearest
from stitch_sweep.core.untrusted import list_briefly

_DEFAULT_ZOO: str = Config.model_fields["zoo"].default


class Permissions:
    """The user's permissions for measuring one experiment folder.

    Args:
        folder: the experiment folder.
        allow: further folders whose files may be read if the configuration names them.
        download: members of `LIBRARIES` whose published weights may be loaded.
        run_code: whether plugins and factories of `source: python` may run.

    Raises:
        InputError: `allow` contains something other than a folder, or `download` an unknown library.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allow: Iterable[Path | str] = (),
        download: Iterable[str] = (),
        run_code: bool = False,
    ) -> None:
        allowed = [Path(path) for path in allow]
        self.download = tuple(download)
        self.run_code = run_code
        problems = [f"--allow {path}: is not a folder" for path in allowed if not path.is_dir()]
        problems += [
            f"--download {name}: {nearest(name, LIBRARIES)}"
            for name in self.download
            if name not in LIBRARIES
        ]
        if problems:
            raise InputError(*problems)
        self._folder = folder
        self._project = find_root(folder)
        self._roots = [folder, *allowed]

    def find(self, name: str) -> Path:
        """Find the file or folder that a path of the configuration names.

        Args:
            name: a path or a pattern, relative to the experiment folder or to the project's root.

        Returns:
            The path that exists, else the first one that may be read.

        Raises:
            InputError: the path, or a link on it, leads outside the permitted folders.
        """
        permitted = [path for path in self._candidates(name) if self._is_below_root(path)]
        if not permitted:
            raise InputError(self._refusal(name))
        chosen = next((path for path in permitted if _exists(path)), permitted[0])
        start = _before_pattern(chosen)
        if not self._leads_to_root(start):
            raise InputError(self._refusal(str(start.resolve())))
        # The user made the links inside a folder that the user allows.
        if _is_below(start, self._folder) and (path := self._first_stray(start)) is not None:
            raise InputError(
                f"{path} is a link to another place, or no regular file, so {name} is not read"
            )
        return chosen

    def zoo(self, config: Config) -> Path:
        """Find the zoo of a configuration.

        Raises:
            InputError: as in `find`.
        """
        candidates = list(self._candidates(config.zoo))
        is_nearer = any(self._is_below_root(path) and _exists(path) for path in candidates)
        if self._project_zoo in candidates and not is_nearer and self._is_in_project():
            return self._project_zoo  # the default of Stitch Sweep, which no folder can choose
        return self.find(config.zoo)

    @property
    def _project_zoo(self) -> Path:
        return self._project / _DEFAULT_ZOO

    def _is_in_project(self) -> bool:
        """Return whether the project's zoo is no link out of the project."""
        return self._project_zoo.resolve().is_relative_to(self._project.resolve())

    def check_network(self, network: NetworkConfig) -> NetworkConfig:
        """Return the network with paths that may be read.

        Raises:
            InputError: building it needs code, a download or a file that the user has not permitted.
        """
        # A module that was given in Python is no code of the folder.
        is_code = network.source == "python" and not is_in_memory(network.factory or "")
        if is_code and not self.run_code:
            raise InputError(
                f"is built by code that the folder names ({network.factory}), which is run only with "
                "--run-code"
            )
        if network.kind == "named" and network.source not in self.download:
            raise InputError(
                f"has published weights ({network.title}, {network.weights}); pass --download "
                f"{network.source} to load them"
            )
        changes: dict[str, str] = {}
        if network.kind == "file":
            changes["weights"] = str(self.find(network.weights))
        if network.factory is not None and is_file(network.factory):
            file, _, function = network.factory.rpartition(":")
            path = next((path for path in self._candidates(file) if _exists(path)), Path(file))
            changes["factory"] = f"{path}:{function}"
        return network.model_copy(update=changes)

    def load_plugins(self, tree: Mapping[str, Any], description: Mapping[str, Any]) -> None:
        """Load the plugins that a configuration names; nothing is run without permission.

        Args:
            tree: the raw configuration.
            description: of the sweep, with the content that its plugins had.

        Raises:
            InputError: the user has not permitted it, or a plugin can't be loaded or has changed.
        """
        names = {}
        for name in as_list(tree.get("plugins")):
            if isinstance(name, str):
                is_file = plugins.is_file(name)
                places = filter(_exists, self._candidates(name)) if is_file else iter(())
                names[Path(name).name if is_file else name] = str(next(places, name))
        missing = [name for name, path in names.items() if plugins.loaded(path) is None]
        if missing and not self.run_code:
            raise InputError(
                f"the folder names plugins ({list_briefly(missing)}), which are run only with "
                "--run-code"
            )
        recorded = description.get("decides", {}).get("plugins", {})
        problems = []
        for name, path in names.items():
            known = plugins.loaded(path)
            sha256 = plugins.read_content(path) if known is None else known.sha256
            if sha256 != recorded.get(name, sha256):
                problems.append(f"plugin {path}: its content is not that of the sweep")
            elif known is None:
                plugins.load(path)
        if problems:
            raise InputError(*problems)

    def exists(self, name: str) -> bool:
        """Return whether a path exists and may be read."""
        try:
            return _exists(self.find(name))
        except InputError:
            if not self._is_in_project():
                return False
            candidates = self._candidates(name)
            return any(_is_below(path, self._project_zoo) and _exists(path) for path in candidates)

    def _candidates(self, name: str) -> Iterator[Path]:
        """Yield the possible places of a path without accessing them: access could mount a drive."""
        if "\0" in name:
            return
        with suppress(InputError):  # a path with an unset variable exists nowhere
            name = expand_variables(name)
        path = Path(name)
        if path.parts[:1] == ("~",):
            path = Path.home().joinpath(*path.parts[1:])
        for base in (self._folder.absolute(), self._project):
            yield Path(os.path.normpath(base / path))

    def _is_below_root(self, path: Path) -> bool:
        return any(_is_below(path, root) for root in self._roots)

    def _leads_to_root(self, path: Path) -> bool:
        """Return whether a path is below a permitted folder after its links are followed."""
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in self._roots)

    def _first_stray(self, start: Path) -> Path | None:
        """Find the first entry below a folder that is a pipe or device, or a link out of the folder.

        Links to folders count as well: they can form loops.
        """
        for parent, folders, files in os.walk(start):
            for name in (*folders, *files):
                path = Path(parent, name)
                is_link = path.is_symlink()
                if is_link and (name in folders or not self._leads_to_root(path)):
                    return path
                if name in files and path.exists() and not path.is_file():
                    return path
        return None

    def _refusal(self, name: str) -> str:
        return (
            f"{name} is outside {self._folder}; pass --allow FOLDER to permit reading below FOLDER"
        )


def _is_below(path: Path, root: Path) -> bool:
    """Return whether a path is written as a path below a folder, by its name or its real path."""
    spelled = Path(os.path.normpath(root.absolute()))
    return path.is_relative_to(spelled) or path.is_relative_to(root.resolve())


def _before_pattern(path: Path) -> Path:
    """Return the part of a path before the first `*`, `?` or `[`."""
    return path if path.exists() else Path(*takewhile(lambda part: not has_magic(part), path.parts))


def _exists(path: Path) -> bool:
    try:
        return path.exists() or (has_magic(str(path)) and bool(glob(str(path))))  # noqa: PTH207
    except OSError:  # the name is too long
        return False
