"""How long something takes, as a person reads it."""


def format_seconds(seconds: float) -> str:
    """A duration; tenths of a second below ten.

    >>> [format_seconds(s) for s in (0.04, 1.94, 75, 7260)]
    ['0.0 s', '1.9 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
