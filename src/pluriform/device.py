"""Devices by name."""

import torch

from pluriform.errors import ConfigError, explain

__all__ = ["device_of"]


def device_of(name: str | torch.device) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one.

    Raises:
        ConfigError: torch cannot use it.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        got = f"{str(name)!r} ({error})".split("\n")[0]
        raise ConfigError(explain("a device that torch can use", got, "device", "use auto or cpu")) from error
    return torch.device(name)
