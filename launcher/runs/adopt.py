"""Runs as their store tells them, and how a home that does not know one makes it its own.

Taking a run's books needs nobody's leave. Taking the run over puts a line into the store's books
that says so: whoever drove it finds that line before the next thing that he does, and stands down.
Everything is read and checked before anything is written here, and what a kill cuts off is done
again by the next `still adopt`.
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import ValidationError

from launcher.machines.local import Follower
from launcher.machines.rented_book import rebuild_book
from launcher.market.offers import LOCAL, Offer
from launcher.plans.plan import Plan
from launcher.runs.attempts import write_off
from launcher.runs.house import STORE
from launcher.runs.mirror import LAST_WORD, LastWord, limits_key, own_mark, store_of_runs
from recipes.errors import InvalidInputError, RefusedError
from recipes.recipe import Recipe
from recipes.rundir import Limits, RunDir, write_model
from recipes.store import NotStoredError, Store
from recipes.store_lines import agrees
from recipes.stored_run import EventMirror
from tracking.books import Books
from tracking.home import Home
from tracking.ledger import Ledger
from tracking.replay import fault_in
from tracking.shared import Driver, Said, SharedBooks

LIVES_S = 180.0
"""A driver that was heard of within this is thought to live [s]; it speaks each minute."""

_RUN_ID = re.compile(r"[a-z][a-z0-9-]{0,59}")
"""What we call runs: it becomes the name of a folder."""

_AT_ONCE = 16
"""Runs that are read at the same time."""


@dataclass(frozen=True)
class Stored:
    """A run as its store tells it."""

    run_id: str
    books: Books | None
    """`None` where they are damaged."""
    driver: Driver | None
    """Who drove it last."""
    heard_at: float | None
    """When that was last heard of [unix s]; `None` is unknown."""
    fault: str | None = None
    """What is wrong with it."""

    @property
    def is_over(self) -> bool:
        """Whether it needs nobody any more."""
        return self.books is not None and self.books.over and self.books.open_attempt is None

    @property
    def is_done(self) -> bool:
        """Whether nobody can go on with it either."""
        return self.is_over and self.books is not None and self.books.state == "done"

    def is_driven(self, now: float) -> bool:
        """Whether somebody was heard of a moment ago."""
        return not self.is_over and self.heard_at is not None and now - self.heard_at < LIVES_S


def stored_runs(store: Store) -> list[Stored]:
    """All runs in a store, the newest first; what is no run of ours is passed over.

    Raises:
        StoreError: the store cannot be read.
    """
    names = [name for name in store.folders() if _RUN_ID.fullmatch(name)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = [stored for stored in pool.map(lambda name: _look(store, name), names) if stored]
    return sorted(found, key=lambda one: one.books.opened_at if one.books else 0.0, reverse=True)


def find_stored(store: Store, run_id: str) -> Stored:
    """One run in a store.

    Raises:
        InvalidInputError: there is none of that name, or its books are damaged.
        StoreError: the store cannot be read.
    """
    found = _look(store, run_id) if _RUN_ID.fullmatch(run_id) else None
    if found is None:
        raise InvalidInputError(
            f"{store.url} has no books of a run {run_id!r}. `still adopt {store.url}` lists all"
        )
    if found.fault:
        raise InvalidInputError(found.fault)
    return found


def _look(store: Store, run_id: str) -> Stored | None:
    shared = SharedBooks(store, run_id, below=run_id)
    try:
        shared.catch_up()
        if not shared.said:
            return None
        heard_at = max(shared.said[-1].at, _last_word(store, run_id))
        return Stored(run_id, shared.books(), shared.driver, heard_at)
    except InvalidInputError as error:
        return Stored(run_id, None, shared.driver, None, str(error))


def _last_word(store: Store, run_id: str) -> float:
    try:
        word = store.get_bytes(f"{run_id}/{LAST_WORD}")
        return LastWord.model_validate_json(word).at
    except (NotStoredError, ValidationError):
        return 0.0


# ---- one run ---------------------------------------------------------------------------------


class Adoption:
    """Makes one run of a store this home's own.

    Args:
        store: of the run itself.
        same_store: whether a URL in the books means this store.
        host: who we are, for people.
    """

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        store: Store,
        run_id: str,
        same_store: Callable[[str], bool],
        host: str,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._run = home.run(run_id)
        self._run_id = run_id
        self._same_store = same_store
        self._host = host
        self._clock = clock
        self._shared = SharedBooks(store, run_id)

    def take_books(self, *, with_student: bool) -> int:
        """Bring ledger and folder up to date; how many entries of the ledger were new.

        Raises:
            InvalidInputError: what is stored is damaged, or this ledger says other things.
            StoreError: the store cannot be read.
            RefusedError: a process of this home drives the run.
        """
        self._shared.catch_up()
        found = _Found.read(self._store, self._shared)
        self._run.path.mkdir(parents=True, mode=0o700, exist_ok=True)
        with Follower(self._run):
            for path, model in ((self._run.plan, found.plan), (self._run.recipe, found.recipe)):
                if not path.exists():
                    write_model(path, model)
            new = self._ledger.take_in(self._run_id, self._shared.entries)
            self._rebuild(found)
            _bring_events(self._store, self._run, with_student=with_student)
        return new

    def take_over(self) -> None:
        """The same, and be the one who drives from now on.

        Raises:
            RefusedError: it cannot be looked after from here.
            InvalidInputError, StoreError: as `take_books`.
        """
        self._shared.catch_up()
        self._check_possible(_Found.read(self._store, self._shared).books)
        self.take_books(with_student=True)
        with Follower(self._run):
            self._claim()
            self._rebuild(_Found.read(self._store, self._shared))
            self._ledger.take_in(self._run_id, self._shared.entries)
            attempt = self._ledger.books(self._run_id).open_attempt
            at_home = attempt is not None and attempt.offer.get("cloud") == LOCAL
            if attempt is not None and at_home and self._is_elsewhere(attempt.number):
                write_off(self._ledger, self._run_id)

    def _check_possible(self, books: Books) -> None:
        """
        Raises:
            RefusedError: its machines cannot be seen from here, or its files are elsewhere.
        """
        url = books.notes.get(STORE, "nowhere")
        if not self._same_store(url):
            raise RefusedError(
                f"the books of {self._run_id} say that its files are kept at {url}, and these lie "
                f"at {self._store.url}. Take it over from there: `still adopt "
                f"{store_of_runs(url, self._run_id)} {self._run_id}`, or take its books alone: "
                "--books-only"
            )
        attempt = books.open_attempt
        if attempt is None or not self._is_elsewhere(attempt.number):
            return
        if attempt.offer.get("cloud") not in ("aws", LOCAL):
            raise RefusedError(
                f"{self._run_id} has {attempt.offer_name}, and only SkyPilot on the machine that "
                "rented it can tell what becomes of it: of other clouds than AWS nothing can be "
                "proved from here. Nothing was taken over; --books-only takes its books"
            )

    def _claim(self) -> None:
        """Have the last word in the store's books, so that nobody else's counts any more."""
        mark = own_mark(self._run)
        while self._shared.driver is None or self._shared.driver.home != mark:
            me = Driver(home=mark, host=self._host, pid=os.getpid())
            if not self._shared.append([Said(self._clock(), me)]):
                self._shared.catch_up()

    def _is_elsewhere(self, attempt: int) -> bool:
        author = self._shared.author(attempt)
        return author is None or not self._run.path.exists() or author.home != own_mark(self._run)

    def _rebuild(self, found: "_Found") -> None:
        """What the launcher keeps in the run's folder of what was rented."""
        if found.limits is not None:
            write_model(self._run.limits, found.limits)
        rebuild_book(self._run, found.books.attempts, self._is_elsewhere)


@dataclass(frozen=True)
class _Found:
    """What a store has of a run besides its events, all of it checked."""

    books: Books
    recipe: Recipe
    plan: Plan
    limits: Limits | None
    """Of the newest attempt; `None` where there was none."""

    @classmethod
    def read(cls, store: Store, shared: SharedBooks) -> "_Found":
        """
        Raises:
            InvalidInputError: it cannot be read by this version, or something is missing.
        """
        books = shared.books()
        if fault := fault_in(shared.run_id, [entry for _, entry in shared.entries]):
            raise InvalidInputError(
                f"the books of {shared.run_id} in {store.url} are no ledger's: {fault}. Nothing "
                "was changed here; restore them"
            )
        what = "recipe"
        try:
            recipe = Recipe.model_validate(books.opened.recipe)
            what = "plan.json"
            plan = Plan.model_validate_json(store.get_bytes(what))
            limits = None
            what = "an offer"
            for attempt in books.attempts:
                Offer.from_json(attempt.offer)
            if books.attempts:
                what = limits_key(books.attempts[-1].number)
                limits = Limits.model_validate_json(store.get_bytes(what))
        except (ValidationError, NotStoredError) as error:
            raise InvalidInputError(
                f"{what} of {shared.run_id} in {store.url} is missing, damaged or of another "
                "version. Nothing was changed here; restore it, or update stillhouse"
            ) from error
        return cls(books, recipe, plan, limits)


def _bring_events(store: Store, run: RunDir, *, with_student: bool) -> None:
    """Bring home what the worker has written, and what came of it."""
    if run.events.exists() and not agrees(store, run.events.stem, run.events):
        os.replace(run.events, run.events.with_name(f"{run.events.name}.other"))
    mirror = EventMirror(store, run, with_student=with_student)
    mirror.fetch()
    if with_student and run.done.exists():  # which may have come earlier without its student
        mirror.fetch_results()
