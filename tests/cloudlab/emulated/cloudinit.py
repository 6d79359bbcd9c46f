"""What a host takes from an instance's user data: the keys that may log in."""

import base64

import yaml

HEAD = "#cloud-config"


def authorized_keys(user_data: str) -> tuple[str, ...]:
    """Public keys of every user in a `#cloud-config`; none where it is not one.

    Args:
        user_data: as EC2 returns it: base64, encoded twice where the client encoded it as well.
    """
    text = user_data
    for _ in range(2):
        if text.startswith(HEAD):
            break
        text = _decoded(text)
    if not text.startswith(HEAD):
        return ()
    document = yaml.safe_load(text) or {}
    users = [user for user in document.get("users", []) if isinstance(user, dict)]
    keys = [key for user in users for key in user.get("ssh_authorized_keys", [])]
    return tuple(key.strip() for key in keys)


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:  # no base64, or no text in it
        return ""
