"""Sweeping AWS: finds what of ours is there and should not be, and ends it. `sweep` judges."""

from collections.abc import Sequence

from launcher.machines.aws import boto3_client
from launcher.machines.aws_inventory import remove, take_inventory
from launcher.machines.labels import owner_tag, this_owner
from launcher.machines.teardown import CLEAN_LOOKS, LOOKS, SECOND_LOOK_S
from launcher.outside import Outside
from launcher.runs.house import STORE
from launcher.sweep import Judged, Swept, judge
from recipes.privacy import redacted
from recipes.store import open_store
from tracking.books import Books


class Sweeper:
    """Sweeps AWS, for whoever has credentials.

    Args:
        outside: ledger, clock, screen.
        regions: where to look; none: every enabled region.
        stores: URLs of run stores, besides those that are known.
    """

    def __init__(self, outside: Outside, regions: Sequence[str], stores: Sequence[str]) -> None:
        self._outside = outside
        self._regions = regions
        for url in stores:
            open_store(url, outside.environ)  # one that is none is no place without uploads
        self._stores = stores

    def look(self) -> Swept:
        """What of ours is there, by tag, held against the runs that go on here."""
        runs = self._outside.ledger.runs()
        with self._outside.busy("asking AWS in every region"):
            found = take_inventory(boto3_client, self._regions, self._buckets(runs))
        return judge(found, runs, owner_tag("aws", this_owner()), self._outside.clock())

    def end(self, orphans: Sequence[Judged]) -> Swept:
        """End what was found, until several looks in a row find nothing of it; what is left."""
        wanted = {(one.thing.kind, one.thing.id) for one in orphans}
        clean, swept = 0, self.look()
        for _ in range(LOOKS):
            left = [one for one in swept.orphans if (one.thing.kind, one.thing.id) in wanted]
            clean = 0 if left else clean + 1
            if clean == CLEAN_LOOKS:
                break
            for one in left:
                self._remove(one)
            self._outside.sleep(SECOND_LOOK_S)
            swept = self.look()
        return swept

    def _remove(self, one: Judged) -> None:
        try:
            remove(boto3_client, one.thing)
        except Exception as error:  # noqa: BLE001 - the others are to go all the same
            self._outside.progress.print(
                f"{one.thing}: {redacted(str(error))}", markup=False, highlight=False
            )

    def _buckets(self, runs: Sequence[Books]) -> list[tuple[str, str]]:
        """Bucket and prefix of every run store that is known, each once."""
        noted = [books.notes[STORE].rpartition("/")[0] for books in runs if STORE in books.notes]
        named = [*self._stores, self._outside.environ.get("STILLHOUSE_STORE", ""), *noted]
        found = [url.removeprefix("s3://") for url in named if url.startswith("s3://")]
        places = [(url.partition("/")[0], url.partition("/")[2].strip("/")) for url in found]
        return list(dict.fromkeys(places))
