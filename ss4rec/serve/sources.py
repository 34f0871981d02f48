"""Which model is to be served: a run or the champion of a registry, looked at again and again."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ss4rec.errors import SS4RecError
from ss4rec.registry import champion
from ss4rec.runs.folder import RunFolder
from ss4rec.serve.gentle import gently
from ss4rec.serve.kept_states import KeptStates, open_kept_states
from ss4rec.serve.open_store import open_store
from ss4rec.serve.served_model import ServedModel, load_served
from ss4rec.serve.service import Service
from ss4rec.serve.settings import ServeSettings
from ss4rec.serve.sqlite import SqliteStore
from ss4rec.serve.warm import Order, make_states

logger = logging.getLogger(__name__)
CORE_SHARE = 0.25
"""Of a core, for taking up the states of present users for a new model; requests go first."""

FEW_BEHIND = 5
"""Events a user that a replica takes into its states by itself when it changes its model."""
TURN_LOOK_S = 0.2
"""Between two looks whether it is this replica's turn to change its model."""
SAVE_PAUSE_S = 1.0
"""Between two looks whether states are to be kept on disk."""

Mark = tuple[object, ...]


@dataclass(frozen=True)
class Found:
    """What is to be served now."""

    folder: Path
    name: str
    mark: Mark
    """Differs if the weights may."""


def look(settings: ServeSettings) -> Found:
    """Return what is to be served.

    Raises:
        DataError: if there is no such run, or no champion.
    """
    if settings.registry:
        path = Path(settings.registry)
        folder = champion(path)
        name = f"{path.name} {int(folder.name)}"
    else:
        folder = Path(settings.run).resolve()
        name = folder.name
    checkpoints = RunFolder.open(folder).checkpoints
    files = sorted((file.name, file.stat().st_mtime_ns) for file in checkpoints.glob("*"))
    return Found(folder, name, (str(folder), *files))


def open_service(settings: ServeSettings) -> tuple[Service, Follower]:
    """Load the model, open the store, and follow the model from now on.

    Raises:
        SS4RecError: if either cannot be had.
    """
    torch.set_num_threads(1)  # several replicas and threads share the cores
    # What was imported stays for good: looking through it for garbage takes .1 s, in which nobody is answered.
    gc.collect()
    gc.freeze()
    found = look(settings)
    store = open_store(settings.store)
    kept = None
    if settings.keep_states and isinstance(store, SqliteStore):
        kept = open_kept_states(store, settings.cache_users * settings.replicas)
    graphs = None if kept is None else kept.graphs
    model = gently(lambda: load_served(found.folder, settings.precision, found.name, graphs=graphs))
    service = Service(store, model, settings.cache_users, kept)
    follower = Follower(service, settings, found.mark)
    follower.start()
    return service, follower


class Follower:
    """Looks for another model in a thread of its own, and lets the service take it over while requests go on.

    The states of present users are made for the new model first, in a process of its own (`ss4rec.serve.warm`), and so
    are, at the start, those of users that the file of states knows from another model. Another thread keeps states on
    disk (`Service.save_states`).

    A model that cannot be loaded is left where it is: the old one goes on, and the log says why.

    Args:
        service: what serves.
        settings: where to look, and how often.
        mark: of the model that is served.
        load: makes a model from what was found, with a folder for its graphs.
    """

    def __init__(
        self,
        service: Service,
        settings: ServeSettings,
        mark: Mark,
        load: Callable[[Found, Path], ServedModel] | None = None,
    ) -> None:
        self.service = service
        self.settings = settings
        self._mark = mark
        self._load = load or self._loaded
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="follower", daemon=True),
            threading.Thread(target=self._save, name="saver", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End, after a model that is being loaded."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> bool:
        """Look once; returns whether another model was taken over."""
        try:
            found = look(self.settings)
            if found.mark == self._mark:
                return False
            self._mark = found.mark  # one that cannot be loaded is not tried again until it changes
        except (SS4RecError, OSError) as error:
            return self._refuse(error)
        with self._turn() as mine:
            return mine and self._change(found)

    def _change(self, found: Found) -> bool:
        """Load a model and let the service take it over; returns whether it has."""
        with self._file() as file:
            try:
                # Not gently: this thread holds Python's lock, for which requests would wait while it waits for a core.
                model = self._load(found, file.graphs)
            except (SS4RecError, OSError) as error:
                return self._refuse(error)
            if model.fingerprint == self.service.model.fingerprint and model.name == self.service.model.name:
                return False
            if self._far_behind(model, file) and not self._make_states(found, file):
                return False
            # Only now, since the process that makes states records the graphs too.
            model.make_ready()
            self.service.take_over(model, file, share=CORE_SHARE)
        logger.info("%s (%s) serves now", model.name, model.fingerprint)
        return True

    def _loaded(self, found: Found, graphs: Path) -> ServedModel:
        return load_served(found.folder, self.settings.precision, found.name, ready=False, graphs=graphs)

    def _refuse(self, error: Exception) -> bool:
        self.service.counts.refused += 1
        logger.warning("another model cannot be served, %s goes on: %s", self.service.model.name, error)
        return False

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Wait until no other replica of this machine changes its model: together they would leave no core to requests.
        False if asked to end meanwhile."""
        kept = self.service.kept
        if kept is None:
            yield True
            return
        with kept.path.with_name(kept.path.name + ".turn").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if self._stop.wait(TURN_LOOK_S):
                        break
                else:
                    break
            yield not self._stop.is_set()

    def _far_behind(self, model: ServedModel, file: KeptStates) -> bool:
        """Return whether the states of present users are to be made for a model, or only to be brought up to date.

        Another replica may just have had them made.
        """
        users = self._present(file)
        if file.lacking(model.states, users):
            return True
        events = self.service.store.since(file.numbers(model.states, users))
        return sum(map(len, events.values())) > FEW_BEHIND * len(users)

    @contextmanager
    def _file(self) -> Iterator[KeptStates]:
        """Open the file of states, or one for the length of the block where none is kept."""
        if self.service.kept is not None:
            yield self.service.kept
            return
        with tempfile.TemporaryDirectory(prefix="ss4rec-states-") as folder:
            file = KeptStates(Path(folder) / "states", "", self.settings.cache_users)
            yield file
            file.close()

    def _present(self, file: KeptStates) -> list[str]:
        """Return the users whose states are to be there, those who asked last at the front."""
        return list(dict.fromkeys([*reversed(self.service.users), *file.users()]))[: file.most]

    def _make_states(self, found: Found, file: KeptStates) -> bool:
        """Have the states of present users made for a model, in a process of its own; false if asked to end."""
        users = self._present(file)
        if not users:
            return True
        order = Order(
            run=str(found.folder),
            precision=self.settings.precision,
            store=self.settings.store,
            states=str(file.path),
            store_id=file.store_id,
            most=file.most,
            users=users,
            parent=os.getpid(),
        )
        made = make_states(order, self._stop)
        if not made and not self._stop.is_set():
            logger.warning("states for %s are made beside requests, which may wait for them", found.name)
        return made or not self._stop.is_set()

    def _warm_start(self) -> None:
        """Have states made that the file has for another model only."""
        kept = self.service.kept
        if kept is not None and kept.lacking(self.service.model.states, kept.users()):
            self._make_states(look(self.settings), kept)

    def _follow(self) -> None:
        try:
            self._warm_start()
        except Exception:  # states that are missing are made when somebody asks
            logger.exception("states could not be made before somebody asks")
        # Not at the same moment as other replicas: each makes its states anew.
        while not self._stop.wait(self.settings.look_every_s * random.uniform(0.5, 1.5)):  # nosec B311  # no secret
            try:
                self.check()
            except Exception:  # whatever it is, the next look comes, and requests are answered meanwhile
                self.service.counts.refused += 1
                logger.exception("another model could not be taken over")

    def _save(self) -> None:
        while not self._stop.wait(SAVE_PAUSE_S):
            try:
                self.service.save_states()
            except Exception:  # a cache: the next look comes
                logger.exception("states could not be kept on disk")
