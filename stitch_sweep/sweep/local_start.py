"""The start of a local Ray in the background, while the sweep is prepared."""

from __future__ import annotations

import threading
from importlib import import_module
from pathlib import Path

from stitch_sweep.core import interrupts
from stitch_sweep.storage import scratch
from stitch_sweep.sweep.worker_template import IS_SUPPORTED, WorkerTemplate


class LocalStart:
    """Starts a local Ray and its workers' template, and ends both.

    Nothing is started before `begin_template`, `begin` or `wait`, and an error is raised by `wait` only:
    an error of the configuration comes first.
    """

    def __init__(self) -> None:
        self._template: WorkerTemplate | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._over = threading.Event()
        self._folder: Path | None = None
        self._error: BaseException | None = None

    def begin_template(self) -> None:
        """Start the template, whose imports take seconds. Other systems than Linux have none."""
        if IS_SUPPORTED:
            self._template = self._template or WorkerTemplate()

    def begin(self) -> None:
        """Start Ray in a thread, after all imports of this thread."""
        # Ray takes seconds to load, and a complete sweep or a refused one doesn't need it. It is imported
        # here, because two threads must not import modules that import each other.
        import_module("stitch_sweep.sweep.tuning")
        self.begin_template()
        # The thread lives as long as Ray: the kernel ends processes with the thread that started them.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> Path:
        """Wait until Ray runs, and return the folder of its files.

        Raises:
            InputError: there is no folder for Ray's sockets, or no token.
            StoppedError: Ray did not start.
        """
        if self._thread is None:
            self.begin()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._folder is not None
        return self._folder

    def close(self) -> None:
        """End Ray and the template, also in the middle of their start, and remove Ray's folder."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._template is not None:
            self._template.close()

    def _run(self) -> None:
        from stitch_sweep.sweep.ray_connection import start_local
        from stitch_sweep.sweep.ray_setup import ray

        try:
            with scratch.folder(sockets=True) as folder:
                try:
                    with interrupts.kept_by_kernel():
                        start_local(folder, self._template)
                    self._folder = folder
                    self._ready.set()
                    self._over.wait()
                finally:
                    ray.shutdown()
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()
