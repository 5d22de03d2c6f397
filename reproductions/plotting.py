"""What the figures of reproductions share."""

from typing import Any


def pyplot() -> Any:
    """Matplotlib without a screen, in the style of all figures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9})
    return plt
