"""Which events are too old to be kept, where a clock may have been wrong."""


def too_old(stamps: "list[bytes]", oldest: bytes, now: bytes) -> "set[bytes]":
    """The stamps before `oldest`; none where all of these are a year older than the others, and than `now`.

    A clock that was or is wrong is more likely than a repository that rested for a year.
    """
    old = {stamp for stamp in stamps if stamp < oldest}
    if not old:
        return old
    next_one = min((stamp for stamp in stamps if stamp >= oldest), default=now)
    if next_one[:4].isdigit() and max(old) < b"%04d" % (int(next_one[:4]) - 1) + next_one[4:]:
        return set()
    return old
