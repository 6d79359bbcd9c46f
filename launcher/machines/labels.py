"""The marks by which our machines are known in a cloud: whose they are, and until when.

They become tags or labels of everything that is rented, so that it can be found again without any
record of ours. Clouds allow different characters: AWS and Azure take RFC 3339 as it is, GCP only
lower-case letters, digits, `_` and `-`, Kubernetes no colons. Other clouds drop labels.
"""

import getpass
import re
import socket
from datetime import UTC, datetime

RUN = "stillhouse-run"
OWNER = "stillhouse-owner"
EXPIRES = "stillhouse-expires"

_ANY_CASE_AND_COLONS = frozenset({"aws", "azure"})

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)t(\d\d)[:-](\d\d)[:-](\d\d)z", re.IGNORECASE)


def this_owner() -> str:
    """Who pays for what is rented from this machine: `ada@laptop`."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def labels(cloud: str, *, run_id: str, owner: str, expires_at: float) -> dict[str, str]:
    """The labels of a run's machines, in the characters that the cloud allows.

    Args:
        cloud: as in an offer.
        run_id: as the ledger knows it.
        owner: who pays, for example `name@host`. Characters that no cloud allows become dashes.
        expires_at: whatever is still there then is nobody's any more [unix s]; rounded up to a
            second.

    >>> labels("gcp", run_id="s1-261122-0341-k7q2", owner="Ada@lab", expires_at=1_800_000_000)
    ... # doctest: +NORMALIZE_WHITESPACE
    {'stillhouse-run': 's1-261122-0341-k7q2', 'stillhouse-owner': 'ada-lab',
     'stillhouse-expires': '2027-01-15t08-00-00z'}
    """
    expires = datetime.fromtimestamp(-(-expires_at // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if cloud not in _ANY_CASE_AND_COLONS:
        expires = expires.replace(":", "-").lower()
    return {RUN: run_id, OWNER: owner_tag(cloud, owner), EXPIRES: expires}


def owner_tag(cloud: str, owner: str) -> str:
    """Who pays, in the characters that a cloud allows."""
    if cloud in _ANY_CASE_AND_COLONS:
        return re.sub(r"[^A-Za-z0-9+=._:/@-]", "-", owner)[:200] or "unknown"
    return re.sub(r"[^a-z0-9_-]", "-", owner.lower())[:63].strip("-_") or "unknown"


def read_expires(text: str) -> float | None:
    """When a machine with this label expires [unix s]; `None` where the text says no time.

    >>> read_expires("2027-01-15t08-00-00z") == read_expires("2027-01-15T08:00:00Z")
    True
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    day, *clock = match.groups()
    try:
        return datetime.fromisoformat(f"{day}T{':'.join(clock)}+00:00").timestamp()
    except ValueError:
        return None
