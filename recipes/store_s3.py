"""A run store in a bucket, by boto3: the one module that knows S3.

What passes by itself (no answer, 503, a connection that breaks) is tried again for as long as
`Patience` says; everything else becomes a StoreError that says what to do. boto3 adds a checksum to
every part it sends, and checks those it gets; where an endpoint does not know them, set
AWS_REQUEST_CHECKSUM_CALCULATION=when_required.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from recipes.errors import InvalidInputError
from recipes.store import (
    PATIENCE_S,
    Entry,
    NotStoredError,
    StoreError,
    StoreUnreachableError,
    Unfinished,
    aside_of,
    is_key,
    refuse_if_too_large,
)

PART_BYTES = 2**23
"""Files above this go in parts of this size, or of a larger one above 10,000 parts [bytes]."""

PARTS_AT_ONCE = 10

PASSING = {
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "InternalError",
    "NoSuchUpload",  # somebody aborted it: it is sent anew
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "429",
    "500",
    "502",
    "503",
    "504",
}
"""Error codes of S3 that say: later."""

DENIED = {
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "401",
    "403",
}
ELSEWHERE = {"AuthorizationHeaderMalformed", "PermanentRedirect", "301"}
TAKEN = {"PreconditionFailed", "412"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long a store that does not answer is asked again."""

    limit_s: float = PATIENCE_S
    """From the first failure in a row [s]."""
    first_pause_s: float = 0.5
    """Doubled after each failure [s] …"""
    longest_pause_s: float = 10.0
    """… up to this [s]."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def insist(self, ask: Callable[[], Result]) -> Result:
        """What `ask` returns, once it does.

        Raises:
            StoreUnreachableError: as `ask` last did, when patience is at its end.
        """
        failed_at: float | None = None
        pause = self.first_pause_s
        while True:
            try:
                return ask()
            except StoreUnreachableError:
                failed_at = self.clock() if failed_at is None else failed_at
                if self.clock() + pause > failed_at + self.limit_s:
                    raise
            self.sleep(pause)
            pause = min(2 * pause, self.longest_pause_s)


def connect(
    bucket: str, prefix: str, environ: Mapping[str, str], patience: Patience = Patience()
) -> "S3Store":
    """A store with a boto3 client of its own; nothing is sent yet.

    On a rented machine of AWS (STILLHOUSE_CLOUD) the role's keys are waited for: boto3 takes a
    metadata service that is late once for one that has none.

    Raises:
        InvalidInputError: AWS_ENDPOINT_URL is no URL.
        StoreError: boto3 cannot use what is configured on this machine.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        # Of a single part, so that a file of many is not sent anew for one that failed.
        retries={"mode": "standard", "total_max_attempts": 5},
        max_pool_connections=2 * PARTS_AT_ONCE,
        # Bucket names as host names are AWS's habit; other endpoints know the path at least.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    session = boto3.session.Session()

    def require_keys() -> None:
        if session.get_credentials() is None:
            raise StoreUnreachableError(
                f"this machine's role gives no keys for the run store at s3://{bucket}",
                "See that its instance profile has a role: `still policy aws --for node` prints "
                "what that has to allow.",
            )

    try:
        if environ.get("STILLHOUSE_CLOUD") == "aws":
            patience.insist(require_keys)
        client = session.client("s3", endpoint_url=endpoint, config=config)
    except ValueError as error:
        raise InvalidInputError(
            "AWS_ENDPOINT_URL has to be a URL that begins with http:// or https://"
        ) from error
    except BotoCoreError as error:
        raise _of_boto(error, f"s3://{bucket}") from error
    return S3Store(bucket, prefix, client, patience)


class S3Store:
    """A store in a bucket, below a prefix."""

    def __init__(
        self, bucket: str, prefix: str, client: Any, patience: Patience = Patience()
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = client
        self._patience = patience

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put_file(self, path: Path, key: str) -> None:
        if path.stat().st_size <= PART_BYTES:
            self.put_bytes(key, path.read_bytes())
        else:
            self._transfer(key, lambda manager, at: manager.upload(str(path), **at))

    def put_bytes(self, key: str, content: bytes, *, only_if_new: bool = False) -> bool:
        from botocore.exceptions import ClientError

        if not only_if_new:
            self._ask("put_object", key, Body=content)
            return True

        def put() -> bool:
            try:
                self._client.put_object(**self._at(key), Body=content, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) in TAKEN:
                    return False
                if _code(error) != "NotImplemented":
                    raise
                # An endpoint without conditions: then two at the same moment are not told apart.
                return not self.exists(key) and self.put_bytes(key, content)
            return True

        return self._insist(key, put)

    def get_file(self, key: str, path: Path) -> None:
        aside = aside_of(path)
        try:
            with self._told_from_missing(key):
                self._transfer(key, lambda manager, at: manager.download(fileobj=str(aside), **at))
            with aside.open("rb") as file:
                os.fchmod(file.fileno(), 0o600)
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def get_bytes(self, key: str) -> bytes:
        def get() -> bytes:
            response = self._client.get_object(**self._at(key))
            refuse_if_too_large(f"{self.url}/{key}", response["ContentLength"])
            content: bytes = response["Body"].read()
            return content

        with self._told_from_missing(key):
            return self._insist(key, get)

    def entries(self, folder: str = "", start_after: str = "") -> list[Entry]:
        prefix = self._below(folder)
        after = {"StartAfter": self._prefix + start_after} if start_after else {}
        return [
            Entry(found["Key"].removeprefix(self._prefix), found["Size"])
            for page in self._listing(Prefix=prefix, **after)
            for found in page.get("Contents", [])
        ]

    def folders(self) -> list[str]:
        names = [
            found["Prefix"].removeprefix(self._prefix).rstrip("/")
            for page in self._listing(Prefix=self._prefix, Delimiter="/")
            for found in page.get("CommonPrefixes", [])
        ]
        return sorted(names)  # S3 sorts them with the / behind, and so b- before b/

    def exists(self, key: str) -> bool:
        # Not by HEAD, whose answer cannot tell a missing key from a missing bucket.
        first = self._ask_bucket("list_objects_v2", Prefix=self._at(key)["Key"], MaxKeys=1)
        return any(found["Key"] == self._at(key)["Key"] for found in first.get("Contents", []))

    def delete(self, key: str) -> None:
        doomed = [found.key for found in self.entries(key)]
        for start in range(0, len(doomed), 1000):
            names = [{"Key": self._prefix + name} for name in doomed[start : start + 1000]]
            deleted = self._ask_bucket("delete_objects", Delete={"Objects": names, "Quiet": True})
            for fault in deleted.get("Errors", []):
                raise _explained(fault["Code"], None, f"{self.url}/{key}")
        self._ask("delete_object", key)

    def unfinished(self, folder: str = "") -> list[Unfinished]:
        found: list[Unfinished] = []
        marker: dict[str, str] = {}
        while True:
            page = self._ask_bucket("list_multipart_uploads", Prefix=self._below(folder), **marker)
            for upload in page.get("Uploads", []):
                key = upload["Key"].removeprefix(self._prefix)
                found.append(Unfinished(key, upload["UploadId"]))
            if not page.get("IsTruncated"):
                return sorted(found)
            marker = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def abort(self, upload: Unfinished) -> None:
        from botocore.exceptions import ClientError

        def abort() -> None:
            try:
                self._client.abort_multipart_upload(**self._at(upload.key), UploadId=upload.upload)
            except ClientError as error:
                if _code(error) != "NoSuchUpload":
                    raise

        self._insist(upload.key, abort)

    def clock(self) -> float | None:
        # A listing, since it is allowed to whoever may use the store.
        answer = self._ask_bucket("list_objects_v2", Prefix=self._prefix, MaxKeys=1)
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        try:
            return parsedate_to_datetime(said).timestamp()
        except ValueError:
            return None

    def _at(self, key: str) -> dict[str, str]:
        if not is_key(key):
            raise ValueError(f"{key!r} is no key of a store")
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _below(self, folder: str) -> str:
        return self._at(folder)["Key"] + "/" if folder else self._prefix

    def _listing(self, **wanted: Any) -> Iterator[dict[str, Any]]:
        following: dict[str, str] = {}
        while True:
            page = self._ask_bucket("list_objects_v2", **wanted, **following)
            yield page
            if not page.get("IsTruncated"):
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}

    def _transfer(self, key: str, begin: Callable[[Any, dict[str, str]], Any]) -> None:
        """Send or get a large file in parts, several at a time."""
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        config = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
            preferred_transfer_client="classic",
        )
        at = {"bucket": self._bucket, "key": self._at(key)["Key"]}

        def transfer() -> None:
            with create_transfer_manager(self._client, config) as manager:
                begin(manager, at).result()

        self._insist(key, transfer)

    def _ask(self, operation: str, key: str, **arguments: Any) -> Any:
        at = self._at(key)
        return self._insist(key, lambda: getattr(self._client, operation)(**at, **arguments))

    def _ask_bucket(self, operation: str, **arguments: Any) -> Any:
        ask = getattr(self._client, operation)
        return self._insist("", lambda: ask(Bucket=self._bucket, **arguments))

    @contextmanager
    def _told_from_missing(self, key: str) -> Iterator[None]:
        """Where only keys below a prefix may be listed, S3 says "denied" of a key that is missing.

        Raises:
            NotStoredError: it is missing, by a listing of its own name.
        """
        try:
            yield
        except DeniedError as denied:
            if self.exists(key):
                raise
            raise _explained("NoSuchKey", None, f"{self.url}/{key}") from denied

    def _insist(self, key: str, ask: Callable[[], Result]) -> Result:
        where = f"{self.url}/{key}".rstrip("/")

        def once() -> Result:
            with _explaining(where):
                return ask()

        return self._patience.insist(once)


# ---- what went wrong -------------------------------------------------------------------------


@contextmanager
def _explaining(where: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        raise _explained(_code(error), status, where) from error
    except RetriesExceededError as error:
        raise _silent(where, type(error.last_exception).__name__) from error
    except BotoCoreError as error:
        raise _of_boto(error, where) from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "without a code"))


class DeniedError(StoreError):
    """S3 does not allow it to these credentials."""


def _explained(code: str, status: int | None, where: str) -> StoreError:
    """An answer of S3 in words. Without its message, in which an endpoint may write anything."""
    what = f"the run store at {where} answered {code}"
    bucket = where.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return StoreError(
            f"there is no bucket {bucket} for the run store {where}",
            f"Create it (aws s3 mb s3://{bucket}), or name another run store.",
        )
    if code in ("NoSuchKey", "NotFound", "404"):
        return NotStoredError(f"{where} is not there", "Look whether the run store is right.")
    if code in DENIED:
        return DeniedError(
            what,
            f"Allow this machine's role or user to list the bucket {bucket} and to read, write and "
            "delete below the prefix, or renew its credentials.",
        )
    if code in ELSEWHERE:
        return StoreError(what, f"Set AWS_REGION to the region of the bucket {bucket}.")
    if code in PASSING or (status is not None and status >= 500 and status != 501):
        return _silent(where, code)
    return StoreError(what, "Look this code up in the documentation of the S3 service.")


def _of_boto(error: Exception, where: str) -> StoreError:
    """What boto3 says without an answer of S3."""
    from botocore import exceptions as boto

    passing = (
        boto.HTTPClientError,
        boto.ConnectionError,
        boto.IncompleteReadError,
        boto.ResponseStreamingError,
        boto.FlexibleChecksumError,
    )
    of_role = (
        isinstance(error, boto.CredentialRetrievalError) and error.kwargs["provider"] == "iam-role"
    )  # a machine's metadata service, which did not renew its keys
    if isinstance(error, passing) or of_role:
        return _silent(where, type(error).__name__)
    return StoreError(
        f"the run store at {where} cannot be used: {error}",
        "Look at the AWS credentials and settings on this machine: `aws sts get-caller-identity`.",
    )


def _silent(where: str, said: str) -> StoreUnreachableError:
    return StoreUnreachableError(
        f"the run store at {where} does not answer ({said})",
        "Try again later; if it stays so, look at the network and at AWS_ENDPOINT_URL.",
    )
