"""Labels in words, as figures and pages show them."""

from collections.abc import Sequence


def label_text(label: int, levels: Sequence[str]) -> str:
    """A label as it was in the source.

    Args:
        label: its number.
        levels: the text of labels 0, 1, …; empty for labels that are numbers.

    Returns:
        The text, `none` for −1 where others have text.

    >>> [label_text(1, ("cat", "dog")), label_text(-1, ("cat", "dog")), label_text(7, ())]
    ['dog', 'none', '7']
    """
    if not levels:
        return str(label)
    return levels[label] if 0 <= label < len(levels) else "none"
