"""What measuring may do on the word of a folder's configuration, which may be a stranger's.

It reads files below the experiment folder, the default zoo in the current folder, and what the user
names. It downloads nothing, and runs no code, unless the user says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path

from stitch_sweep.config.models import Config, NetworkConfig, is_file
from stitch_sweep.core.errors import InputError, nearest

_DEFAULT_ZOO: str = Config.model_fields["zoo"].default
LIBRARIES = ("torchvision", "timm")
"""Libraries that publish weights."""


class Permissions:
    """What the user permits measuring to do for one experiment folder.

    Args:
        folder: the experiment folder.
        allow: further folders, whose files may be read where the configuration names them.
        download: members of `LIBRARIES` whose published weights may be loaded.
        run_code: whether factories of `source: python` may be run.

    Raises:
        InputError: a folder in `allow` is none, or a name in `download` is no library.
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
        self._roots = [folder, *allowed]

    def find(self, name: str) -> Path:
        """The file or folder that a path of the configuration names.

        Args:
            name: a path or a pattern, relative to the experiment folder or to the current one.

        Returns:
            The place that exists, else the first that may be read.

        Raises:
            InputError: it lies where nothing may be read, or links lead there.
        """
        permitted = [place for place in self._places(name) if self._is_below_root(place)]
        if not permitted:
            raise InputError(self._refusal(name))
        chosen = next((place for place in permitted if _exists(place)), permitted[0])
        start = _before_pattern(chosen)
        if not self._leads_to_root(start):
            raise InputError(self._refusal(str(start.resolve())))
        # Links within a folder of the user's own are the user's.
        if _is_below(start, self._folder) and (path := self._first_stray(start)) is not None:
            raise InputError(
                f"{path} is a link to another place, or no regular file, so {name} is not read"
            )
        return chosen

    def zoo(self, config: Config) -> Path:
        """The zoo of a configuration.

        Raises:
            InputError: as of `find`.
        """
        here, beside = (base / _DEFAULT_ZOO for base in (Path.cwd(), self._folder.absolute()))
        if config.zoo == _DEFAULT_ZOO and not beside.exists() and not _is_below(here, self._folder):
            return here  # the product's own default and not a folder's word
        return self.find(config.zoo)

    def check_network(self, network: NetworkConfig) -> NetworkConfig:
        """The network with paths that may be read.

        Raises:
            InputError: making it needs code, a download or a file that the user has to permit.
        """
        if network.source == "python" and not self.run_code:
            raise InputError(
                f"is made by code that the folder names ({network.factory}), which is run only with "
                "--run-code"
            )
        if network.kind == "named" and network.source not in self.download:
            raise InputError(
                f"has published weights ({network.title}, {network.weights}), which are loaded only "
                f"with --download {network.source}"
            )
        changes: dict[str, str] = {}
        if network.kind == "file":
            changes["weights"] = str(self.find(network.weights))
        if network.factory is not None and is_file(network.factory):
            file, _, function = network.factory.rpartition(":")
            place = next((path for path in self._places(file) if _exists(path)), Path(file))
            changes["factory"] = f"{place}:{function}"
        return network.model_copy(update=changes)

    def exists(self, name: str) -> bool:
        """Whether a path names something that may be read and is there."""
        try:
            return _exists(self.find(name))
        except InputError:
            default = Path.cwd() / _DEFAULT_ZOO
            return any(_is_below(place, default) and _exists(place) for place in self._places(name))

    def _places(self, name: str) -> Iterator[Path]:
        """Where a path may lie; nothing is looked at yet, because looking can mount a drive."""
        if "\0" in name:
            return
        path = Path(name)
        if path.parts[:1] == ("~",):
            path = Path.home().joinpath(*path.parts[1:])
        for base in (self._folder.absolute(), Path.cwd()):
            yield Path(os.path.normpath(base / path))

    def _is_below_root(self, path: Path) -> bool:
        return any(_is_below(path, root) for root in self._roots)

    def _leads_to_root(self, path: Path) -> bool:
        """Whether a path is below a root once its links are followed."""
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in self._roots)

    def _first_stray(self, start: Path) -> Path | None:
        """The first entry below a folder that is a pipe or device, or a link out of the roots.

        Links to folders are strays too: they can form loops.
        """
        for parent, folders, files in os.walk(start):
            for name in (*folders, *files):
                path = Path(parent, name)
                linked = path.is_symlink()
                if linked and (name in folders or not self._leads_to_root(path)):
                    return path
                if name in files and path.exists() and not path.is_file():
                    return path
        return None

    def _refusal(self, name: str) -> str:
        return (
            f"{name} lies outside of {self._folder}; --allow FOLDER permits reading what lies below "
            "FOLDER"
        )


def _is_below(path: Path, root: Path) -> bool:
    """Whether a path is spelled as one below a folder, by its own name or that of its real place."""
    spelled = Path(os.path.normpath(root.absolute()))
    return path.is_relative_to(spelled) or path.is_relative_to(root.resolve())


def _before_pattern(path: Path) -> Path:
    """The part of a path before the first `*`, `?` or `[`."""
    return path if path.exists() else Path(*takewhile(lambda part: not has_magic(part), path.parts))


def _exists(path: Path) -> bool:
    try:
        return path.exists() or (has_magic(str(path)) and bool(glob(str(path))))  # noqa: PTH207
    except OSError:  # a name that is too long
        return False
