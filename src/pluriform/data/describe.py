"""One sentence about a data set, for the terminal."""

from pluriform.data.data import Data

__all__ = ["describe"]


def describe(data: Data) -> str:
    """What the data set is and how many samples each split has.

    Example:
        >>> import torch
        >>> from pluriform.data.data import Split
        >>> part = Split(torch.zeros(2, 3), torch.zeros(2, 1))
        >>> describe(Data("toy", "regression", part, part, part))
        'toy: regression, inputs 3, 1 output; 2 train / 2 validation / 2 test samples'
    """
    shape = "x".join(str(length) for length in data.input_shape)
    bounds = f" in [{data.bounds[0]:g}, {data.bounds[1]:g}]" if data.bounds else ""
    plural = "" if data.outputs == 1 else "s"
    kinds = {
        "classification": f"{data.outputs} class{'es' if plural else ''}",
        "regression": f"{data.outputs} output{plural}",
        "translation": _translation(data),
    }
    sizes = f"{len(data.train)} train / {len(data.validation)} validation / {len(data.test)} test samples"
    return f"{data.name}: {data.task}, inputs {shape}{bounds}, {kinds[data.task]}; {sizes}"


def _translation(data: Data) -> str:
    source = f"label map of {len(data.classes)} classes" if data.classes else "image"
    target = f"image of {len(data.styles)} styles" if data.styles else "image"
    return f"{source} to {target}" + ("" if data.paired else ", unpaired")
