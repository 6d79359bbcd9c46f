"""Secrets that can be told from everything else, and a search for them in whatever came out."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

SECRETS = {
    "OPENAI_API_KEY": "sk-mark3d/teacher+4711",  # its signs look different in a URL and in JSON
    "AWS_ACCESS_KEY_ID": "AKIAMARK3DACCESS4711",
    "AWS_SECRET_ACCESS_KEY": "mark3d/aws+secret4711",
    "AWS_SESSION_TOKEN": "mark3d-aws-session-4711",
    "HF_TOKEN": "hf_mark3dHugging4711",
    "MLFLOW_TRACKING_USERNAME": "ada",
    "MLFLOW_TRACKING_PASSWORD": "mark3d-mlflow-password-4711",
    "MLFLOW_TRACKING_TOKEN": "mark3d-mlflow-token-4711",
    "GITHUB_TOKEN": "ghp_mark3dGithub4711",
}
"""Environment variables, as a person may have them all set at once."""

IN_URLS = {
    "MLFLOW_TRACKING_URI": "http://ada:mark3d-mlflow-url-4711@127.0.0.1:1",
    "AWS_ENDPOINT_URL": "http://ada:mark3d-s3-url-4711@127.0.0.1:1",
    "STILLHOUSE_NOTIFY_URL": "http://127.0.0.1:1/services/mark3d-webhook-4711",
    "STILLHOUSE_NOTIFY_COMMAND": "false --token mark3d-command-4711",
}
"""The same, where the secret is a part of something; nobody listens at any of these addresses."""

GIT_REMOTE = "https://ada:mark3d-git-remote-4711@example.org/ada/recipes.git"

MARKS = (b"mark3d", b"MARK3D")
"""A piece of each."""

ENVIRONMENT = {**SECRETS, **IN_URLS}


def forms(secret: str) -> set[bytes]:
    """What a secret looks like where it is written down: plain, in a URL, in base64."""
    plain = secret.encode()
    found = {plain, quote(secret, safe="").encode(), secret.replace("/", "\\/").encode()}
    for before in range(3):  # base64 looks different with each place at which it begins
        coded = base64.b64encode(b"\0" * before + plain)
        found.add(coded[4 if before else 0 : 4 * (len(coded) // 4 - 1)])
    return found


ALL_FORMS = {
    form for secret in SECRETS.values() if "mark" in secret.lower() for form in forms(secret)
}


def leaks(places: Mapping[str, bytes]) -> list[str]:
    """Where a marked secret stands, and what stands there around it."""
    found = []
    for place, content in places.items():
        for form in {*MARKS, *ALL_FORMS}:
            if (at := content.find(form)) >= 0:
                found.append(f"{place}: {content[max(0, at - 60) : at + 60]!r}")
                break
    return found


def files_below(*folders: Path) -> dict[str, bytes]:
    """The bytes of every file, by its path; the path itself is searched with them."""
    paths: Iterable[Path] = (path for folder in folders for path in folder.rglob("*"))
    return {
        str(path): str(path).encode() + b"\n" + path.read_bytes()
        for path in paths
        if path.is_file()
    }
