"""What is nobody else's business: secrets in words that others wrote, and files of this person.

Nothing of ours puts a secret into words. But SkyPilot, MLflow, a cloud or an endpoint may, in an
error that we pass on. What they say becomes a `StillhouseError` or a line of a log, and both pass
through `redacted` first.
"""

import os
import re
import sys
from collections.abc import Mapping
from types import TracebackType

SHORTEST = 8
"""Anything shorter may be a word, as people give it to endpoints that want no key [characters]."""

_SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PAT)(?:_ID)?$")
_SECRET_NAMES = frozenset({"STILLHOUSE_NOTIFY_URL", "STILLHOUSE_NOTIFY_COMMAND"})

_USER_OF_URL = re.compile(r"://[^\s/\"'<>]*@")


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret.

    >>> [is_secret(name) for name in ("HF_TOKEN", "AWS_ACCESS_KEY_ID", "TOKENIZERS_PARALLELISM")]
    [True, True, False]
    """
    return name in _SECRET_NAMES or _SECRET_NAME.search(name.upper()) is not None


def redacted(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without secrets: values of environment variables that hold one, and users of URLs.

    >>> redacted("no s3cr3t-token at https://me:pw@host/", {"HF_TOKEN": "s3cr3t-token"})
    'no [HF_TOKEN] at https://***@host/'
    """
    from urllib.parse import quote  # takes a while, and hardly a command has an error to tell

    held = {environ[name].strip(): name for name in environ if is_secret(name)}
    for value in sorted(held, key=len, reverse=True):  # one may be a part of another
        if len(value) >= SHORTEST:
            for form in (value, quote(value, safe="")):
                text = text.replace(form, f"[{held[value]}]")
    return _USER_OF_URL.sub("://***@", text)


def keep_private() -> None:
    """For the start of each of our commands: its files are this person's alone, and a traceback
    that ends it holds no secret."""
    os.umask(0o077)
    sys.excepthook = _print_redacted


def _print_redacted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    import traceback

    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
