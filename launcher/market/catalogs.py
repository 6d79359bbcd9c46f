"""SkyPilot's price catalogs and its list of enabled clouds, read as the files that they are.

Importing SkyPilot takes 2.7 s; reading its largest catalog takes a tenth of a second. Layout, as of
SkyPilot 0.14 (catalogs version 8), below `$SKY_RUNTIME_DIR`, else the home folder:

    .sky/state.db                              clouds that `sky check` enabled
    .sky/catalogs/v8/CLOUD/vms.csv             a row for each machine, region and zone
    .sky/catalogs/v8/aws/az_mappings-*.csv     ids of AWS's zones and their names in this account
    .sky/catalogs/v8/.meta/CLOUD/vms.csv.md5   beside a file that SkyPilot fetched, and will renew

What a row says is read by `launcher.market.catalog_rows`.
"""

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from launcher.market.catalog_rows import BadRowError, Listing, read_listings
from recipes.errors import RefusedError

SCHEMA = "v8"
"""Version of the catalogs that SkyPilot 0.14 reads."""

STALE_AFTER_S = 3 * 86_400
"""SkyPilot renews a catalog that is older than 7 hours, when it reads it. One of days is a sign
that nobody has looked since."""


class CouldNotLookError(RefusedError):
    """The prices could not be looked up, so nothing is known about what is offered."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(what, remedy)

    def __str__(self) -> str:
        return f"could not look for offers: {self.what}. {self.remedy}"


@dataclass(frozen=True)
class Catalog:
    """What one cloud lists."""

    cloud: str
    as_of: float
    """When the file was written [unix s]: no price in it is newer."""
    renewable: bool
    """SkyPilot fetched it, and will renew it. A file made by hand it leaves alone."""
    listings: tuple[Listing, ...]

    def age_warning(self, now: float) -> str | None:
        """What to do about an old catalog, where it is one."""
        days = (now - self.as_of) / 86_400
        if now - self.as_of <= STALE_AFTER_S:
            return None
        renew = f"`{fetch_command(self.cloud)}` renews them"
        if not self.renewable:
            renew = (
                "SkyPilot did not fetch the file, so it never renews it: delete it, then "
                f"`{fetch_command(self.cloud)}`"
            )
        return f"{self.cloud}: the prices are {days:.0f} days old; {renew}"


def fetch_command(cloud: str) -> str:
    """The command that makes SkyPilot fetch a cloud's catalog."""
    return f"sky gpus list --infra {cloud}"


def sky_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """SkyPilot's own folder, found the way SkyPilot finds it."""
    runtime = environ.get("SKY_RUNTIME_DIR", "~")
    if runtime == "~" or runtime.startswith("~/"):
        runtime = (environ.get("HOME") or str(Path.home())) + runtime[1:]
    return Path(runtime) / ".sky"


def enabled_clouds(sky: Path) -> tuple[str, ...] | None:
    """Clouds that `sky check` found usable for machines, in any of SkyPilot's workspaces.

    Returns:
        Their names in lower case, sorted; `None` where it was never asked.

    Raises:
        CouldNotLookError: SkyPilot's database cannot be read.
    """
    import sqlite3
    from contextlib import closing

    database = sky / "state.db"
    if not database.exists():
        return None
    query = "SELECT value FROM config WHERE key LIKE 'enabled_clouds_%_compute'"
    try:
        uri = f"file:{quote(str(database))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=2)) as connection:
            rows = [json.loads(value) for (value,) in connection.execute(query)]
    except (sqlite3.Error, ValueError) as error:
        if "no such table" in str(error):
            return None
        raise CouldNotLookError(
            f"SkyPilot's {database} cannot be read ({error})", "`sky check` looks at it again."
        ) from error
    return tuple(sorted({str(cloud).lower() for row in rows for cloud in row})) if rows else None


def zone_names(sky: Path) -> dict[str, str]:
    """Ids of AWS's zones and their names in this account, as SkyPilot last saw them.

    Empty where it never looked, or where what it wrote cannot be read: then ids are shown, which
    mean the same in every account, while a name means another zone in each.
    """
    known = sorted(
        (sky / "catalogs" / SCHEMA / "aws").glob("az_mappings-*.csv"),
        key=lambda path: path.stat().st_mtime,
    )
    if not known:
        return {}
    try:
        with known[-1].open(newline="", encoding="utf-8") as file:
            return {
                row["AvailabilityZone"]: row["AvailabilityZoneName"]
                for row in csv.DictReader(file)
                if row.get("AvailabilityZone") and row.get("AvailabilityZoneName")
            }
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}


def catalog_clouds(sky: Path) -> tuple[str, ...]:
    """Clouds whose catalog is here, sorted."""
    return tuple(sorted(p.parent.name for p in (sky / "catalogs" / SCHEMA).glob("*/vms.csv")))


def read_catalog(sky: Path, cloud: str) -> Catalog:
    """A cloud's machines that have NVIDIA GPUs.

    Raises:
        CouldNotLookError: there is no catalog, or it cannot be read; names file, line and column,
            and the command that fetches it.
    """
    path = sky / "catalogs" / SCHEMA / cloud / "vms.csv"
    fetch = f"`{fetch_command(cloud)}` fetches it."
    try:
        with path.open(newline="", encoding="utf-8") as file:
            as_of = os.fstat(file.fileno()).st_mtime
            listings = tuple(read_listings(cloud, file))
    except FileNotFoundError as error:
        raise CouldNotLookError(f"there is no price catalog of {cloud} at {path}", fetch) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CouldNotLookError(
            f"{path} cannot be read ({error})", f"Delete it; {fetch}"
        ) from error
    except BadRowError as error:
        raise CouldNotLookError(f"{path}:{error}", f"Delete it; {fetch}") from error
    renewable = (sky / "catalogs" / SCHEMA / ".meta" / cloud / "vms.csv.md5").exists()
    return Catalog(cloud=cloud, as_of=as_of, renewable=renewable, listings=listings)
