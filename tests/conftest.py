"""Fixtures of the whole suite; annotations are checked by beartype in the test run only."""

import os
import re
import signal
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # Two workers share two cores; idle threads of one would stall the other.

import pytest
from beartype import BeartypeConf, BeartypeDecorPlace
from beartype.claw import beartype_package
from jaxtyping import install_import_hook

signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells start background jobs with Ctrl-C ignored.


def modules_with_shapes(package: str) -> list[str]:
    """Names of the modules that state shapes: with jaxtyping, or by a type that is made with it elsewhere.

    Also those that import for the type checker alone: names that beartype by itself could not resolve.
    """
    folder = Path(find_spec(package).origin).parent
    sources = {path: path.read_text() for path in folder.rglob("*.py")}
    making = re.compile(r"^(\w+) = (?:Bool|Float|Int|Shaped)\[", re.MULTILINE)
    made = "|".join({name for text in sources.values() for name in making.findall(text)})
    stating = re.compile(rf"jaxtyping|TYPE_CHECKING|^from \S+ import (?:\([^)]*|.*)\b(?:{made})\b", re.MULTILINE)
    files = [path.relative_to(folder.parent).with_suffix("") for path, text in sources.items() if stating.search(text)]
    names = {".".join(file.parts).removesuffix(".__init__") for file in files}
    return sorted(names - {package})  # A package stands for all that is in it.


# Comparing the shapes of all arguments would take up to half the time of a test where no function has any.
beartype_package("pluriform", conf=BeartypeConf(claw_is_pep526=False, claw_decor_place_func=BeartypeDecorPlace.FIRST))
shapes_checked = install_import_hook(modules_with_shapes("pluriform"), "beartype.beartype")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it skip by name without it."""
    folder = os.environ.get("PLURIFORM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PLURIFORM_DATA does not name the folder of real data sets")
    return Path(folder)


@pytest.fixture
def few_digits(monkeypatch) -> None:
    """`digits` loads its first 400 samples only: enough where nothing depends on how well a network learns."""
    import torch

    from pluriform.data.data import Split

    names = import_module("pluriform.data.load").NAMES
    whole = names["digits"]

    def few(request):
        parts = whole(request)
        return replace(parts, train=Split(*parts.train.batch(torch.arange(400))))

    monkeypatch.setitem(names, "digits", few)
