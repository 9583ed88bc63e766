"""What to say of a name that there is not."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that one most likely meant, whatever its case; None where none is near."""
    spelled = {one.lower(): one for one in known}
    found = get_close_matches(name.lower(), spelled, n=1, cutoff=0.7)
    return spelled[found[0]] if found else None


def hint(name: str, known: Collection[str]) -> str:
    """The end of a sentence on an unknown name: the one that was meant, or all that there are."""
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"
