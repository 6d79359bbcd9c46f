"""Which code a run was made with."""

import hashlib
import subprocess

from tracking.entries import Git


def git_state() -> Git:
    """Commit and difference of the repository we stand in; unknown where there is none."""
    commit, diff = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    if commit is None or diff is None:
        return Git()
    return Git(
        commit=commit.strip(),
        dirty=bool(diff),
        diff_sha256=hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    )


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, check=False, timeout=10, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
