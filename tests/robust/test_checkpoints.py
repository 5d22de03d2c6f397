"""Files in every published layout give the network that was published, and say what they held."""

import contextlib
import hashlib
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError, CorruptFileError, DataNotFoundError, PluriformError, ShapeError
from pluriform.robust.checkpoints import load_robust_imagenet
from pluriform.robust.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise

sys.path.insert(0, str(Path(__file__).parent))
from published import SmallResNet, as_bytes, drawn, renamed, robustness_state, warm_up, watched


@pytest.fixture(scope="module", autouse=True)
def warmed(tmp_path_factory):
    warm_up(load_robust_imagenet, tmp_path_factory.mktemp("warm") / "net.ckpt")


IMAGES = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
NORMALISED = (IMAGES - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


@pytest.fixture(scope="module")
def truth():
    return drawn(SmallResNet())


@pytest.fixture
def state(truth):
    return OrderedDict((name, value.clone()) for name, value in truth.state_dict().items())


def written(path, content, container="zip"):
    path.write_bytes(as_bytes(content, container))
    return path


LAYOUTS = {
    "robustness": lambda s: ({"model": robustness_state(s), "epoch": 90, "optimizer": {"state": {0: s}}}, "model"),
    "robustness, older": lambda s: ({"state_dict": robustness_state(s), "epoch": 90}, "state_dict"),
    "robustness, torchvision": lambda s: ({"model": robustness_state(s, "model.model.")}, "model"),
    "RobustBench": lambda s: (renamed(s, "model."), ""),
    "RobustBench, sequence": lambda s: ({"state_dict": renamed(s, "1.")}, "state_dict"),
    "parallel": lambda s: ({"net": renamed(s, "module."), "acc": 51.2}, "net"),
    "compiled": lambda s: ({"model": renamed(s, "_orig_mod.module.")}, "model"),
    "timm": lambda s: ({"state_dict": s, "arch": "resnet18", "epoch": 3, "version": 2}, "state_dict"),
    "torchvision": lambda s: (s, ""),
    "JEM": lambda s: ({"model_state_dict": renamed(s, "f."), "epoch": 1}, "model_state_dict"),
    "Lightning": lambda s: (
        {"state_dict": renamed(s, "model."), "pytorch-lightning_version": "2"},
        "state_dict",
    ),
}


@pytest.mark.parametrize("container", ["zip", "stream"])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_file_of_each_layout_gives_the_published_network(layout, container, truth, state, tmp_path):
    content, entry = LAYOUTS[layout](state)
    path = written(tmp_path / "net.ckpt", content, container)
    normalise = "file" if layout.startswith("robustness") else Normalise()
    for network in (SmallResNet, None):
        with watched():
            loaded = load_robust_imagenet(path, network, normalise=normalise)
        with torch.no_grad():
            torch.testing.assert_close(loaded.module(IMAGES), truth(NORMALISED), rtol=1e-5, atol=1e-5)
        assert not loaded.module.training
        assert (loaded.report.entry, loaded.report.container) == (entry, container)
    assert loaded.report.loaded == len(state)
    if layout in ("robustness", "timm", "Lightning"):
        assert loaded.report.layout == layout


def test_the_tar_files_of_the_first_years_load(truth, state, tmp_path):
    path = written(tmp_path / "net.pth", state, "tar")
    with watched():
        loaded = load_robust_imagenet(path, SmallResNet(), normalise=None)
    assert loaded.report.container == "tar"
    assert torch.equal(loaded.module(IMAGES), truth(IMAGES))


class Made:
    """Pickles as a call of a function that dill defines."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def dill(monkeypatch, tmp_path):
    """A stand-in for dill whose constructors leave a mark when they are called."""
    package, inner = types.ModuleType("dill"), types.ModuleType("dill._dill")
    for name in ("_create_function", "_create_code", "_create_type", "_load_type", "_get_attr", "_create_cell"):

        def call(*arguments, **named):
            (tmp_path / "ran").write_text("a constructor of dill ran")
            return type("Anything", (), {})

        call.__module__, call.__qualname__, call.__name__ = "dill._dill", name, name
        setattr(inner, name, call)
    package._dill = inner
    monkeypatch.setitem(sys.modules, "dill", package)
    monkeypatch.setitem(sys.modules, "dill._dill", inner)
    return inner


def schedule_of_dill(dill):
    """A lambda with its globals, default and closure, and a class with attributes, as dill lays them out."""
    code = Made(dill._create_code, (1, 0, 1, b"\x64\x01\x53", (None, 0.1), ("epoch",), "train.py", "<lambda>", b""))
    integer = Made(dill._load_type, ("IntType",))
    cell = Made(dill._create_cell, (code,))
    function = Made(dill._create_function, (code, {"__name__": "__main__"}, "<lambda>", None, (cell,)), {"a": 1})
    base = Made(dill._load_type, ("ObjectType",))
    made = Made(dill._create_type, (Made(dill._load_type, ("TypeType",)), "Anneal", (base,), {"f": function}))
    listed = Made(dill._create_type, (integer, "List", (base,), {}), {"state": 2}, iter([1, 2]), iter([("k", "v")]))
    return {
        "base_lrs": [0.1],
        "lr_lambdas": [function],
        "anneal": made,
        "list": listed,
        "get": Made(dill._get_attr, ()),
    }


@pytest.mark.parametrize("container", ["zip", "stream"])
def test_constructors_of_dill_never_run(container, dill, truth, state, tmp_path):
    content = {"schedule": schedule_of_dill(dill), "model": robustness_state(state), "epoch": 90, "amp": None}
    path = written(tmp_path / "resnet18_l2_eps3.ckpt", content, container)
    with watched():
        loaded = load_robust_imagenet(path)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(IMAGES), truth(NORMALISED), rtol=1e-5, atol=1e-5)
    assert "dill._dill._create_function" in loaded.report.inert
    assert not (tmp_path / "ran").exists()
    raw = pickle.dumps(schedule_of_dill(dill))
    with contextlib.suppress(TypeError):
        pickle.loads(raw)
    assert (tmp_path / "ran").exists()


def test_the_report_says_what_was_found(state, tmp_path):
    content = {"model": robustness_state(state), "epoch": 90, "nat_prec1": torch.tensor(55.5), "adv_prec1": 40.25}
    path = written(tmp_path / "resnet18_linf_eps4.0.ckpt", content)
    report = load_robust_imagenet(path).report
    assert report.prefix == "module.model."
    assert report.loaded == len(state)
    assert sorted(report.dropped) == sorted(f"module.attacker.model.{name}" for name in state)
    assert report.normaliser == "module.normalizer.new_mean, module.normalizer.new_std"
    assert report.threat is not None
    assert (report.threat.norm, report.threat.eps, report.threat.bounds) == ("linf", 4 / 255, (0.0, 1.0))
    assert report.facts == {"arch": "resnet18", "epoch": 90, "nat_prec1": 55.5, "adv_prec1": 40.25}
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "50 dropped" in str(report)
    radius = load_robust_imagenet(written(tmp_path / "wide_resnet50_4_l2_eps0.05.ckpt", content)).report.threat
    assert radius is not None
    assert (radius.norm, radius.eps) == ("l2", 0.05)


def test_the_normaliser_is_the_first_layer(truth, state, tmp_path):
    named = robustness_state(state)
    for name in named:
        if name.endswith("new_mean"):
            named[name] = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    loaded = load_robust_imagenet(written(tmp_path / "a.ckpt", {"model": named}))
    shifted = (IMAGES - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    torch.testing.assert_close(loaded.module(IMAGES), truth(shifted), rtol=1e-5, atol=1e-5)
    bench = renamed(state, "model.")
    bench["mu"], bench["sigma"] = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)
    loaded = load_robust_imagenet(written(tmp_path / "b.ckpt", bench))
    torch.testing.assert_close(loaded.module(IMAGES), truth((IMAGES - 0.5) / 0.25), rtol=1e-5, atol=1e-5)
    assert loaded.report.layout == "RobustBench"


def test_statistics_that_are_the_networks_own_stay_there(state, tmp_path):
    network = nn.Sequential(OrderedDict(normalise=Normalise(), model=SmallResNet()))
    own = drawn(network).state_dict()
    other = nn.Sequential(OrderedDict(normalise=Normalise(), model=SmallResNet()))
    loaded = load_robust_imagenet(written(tmp_path / "a.ckpt", {"model": own}), other, normalise=None)
    assert loaded.module is other
    assert torch.equal(loaded.module(IMAGES), network(IMAGES))


def test_nobody_guesses_how_inputs_are_normalised(state, tmp_path):
    path = written(tmp_path / "a.pth", state)
    with pytest.raises(ConfigError, match=r"none .*Normalise\(\) for ImageNet"):
        load_robust_imagenet(path)
    assert load_robust_imagenet(path, normalise=None).report.normaliser == "none"
    named = robustness_state(state)
    named["module.other.mean"], named["module.other.std"] = torch.zeros(3), torch.ones(3)
    with pytest.raises(ConfigError, match="2 that differ"):
        load_robust_imagenet(written(tmp_path / "b.pth", named))
    named = robustness_state(state)
    named["module.normalizer.new_mean"] *= 255
    with pytest.raises(ConfigError, match="divide figures"):
        load_robust_imagenet(written(tmp_path / "c.pth", named))


AVERAGES = {
    "timm": lambda last, mean: {"state_dict": last, "state_dict_ema": mean},
    "entries": lambda last, mean: {"model": last, "model_ema": renamed(mean, "module.")},
    "nested": lambda last, mean: {"net": last, "ema": {"shadow": mean, "decay": 0.999}},
    "names": lambda last, mean: renamed(last, "model.") | renamed(mean, "ema_model.module."),
    "averaged model": lambda last, mean: {
        "last": last,
        "swa": renamed(mean, "module.") | {"n_averaged": torch.tensor(4)},
    },
}


@pytest.mark.parametrize("kind", sorted(AVERAGES))
def test_averaged_weights_are_preferred_and_can_be_declined(kind, truth, state, tmp_path):
    last = drawn(SmallResNet(), 5)
    path = written(tmp_path / "a.pth", AVERAGES[kind](last.state_dict(), state))
    loaded = load_robust_imagenet(path, normalise=None)
    assert torch.equal(loaded.module(IMAGES), truth(IMAGES)) or torch.allclose(loaded.module(IMAGES), truth(IMAGES))
    if kind == "names":
        assert len(loaded.report.dropped) == len(state)
        return
    (other,) = loaded.report.other_entries
    declined = load_robust_imagenet(path, SmallResNet(), normalise=None, entry=other)
    assert torch.equal(declined.module(IMAGES), last(IMAGES))
    with pytest.raises(ConfigError, match="one of the entries"):
        load_robust_imagenet(path, normalise=None, entry="none such")


def fails(path, content, network, word, kind=ShapeError):
    """Loading raises with the word, and leaves the network as it was."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(kind, match=word) as raised:
        load_robust_imagenet(written(path, content), network, normalise=None)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_another_network_is_named_part_by_part(state, tmp_path):
    path = tmp_path / "a.pth"
    message = fails(path, state, SmallResNet(classes=7), "a head of 7 classes")
    assert "one of 10 classes (fc.weight (10, 8), not (7, 8))" in message
    assert "build the network with 10 classes" in message
    fails(path, state, nn.Sequential(nn.Linear(8, 3)), "another architecture")
    fails(path, {n: v for n, v in state.items() if n != "bn1.bias"}, SmallResNet(), r"1 missing \(bn1.bias\)")
    extra = state | {"layer3.0.conv1.weight": torch.ones(2, 2)}
    fails(path, extra, SmallResNet(), r"1 unexpected \(layer3.0.conv1.weight\)")
    fails(
        path,
        state | {"conv1.weight": torch.ones(4, 1, 7, 7)},
        SmallResNet(),
        r"conv1.weight \(4, 1, 7, 7\) float32 instead",
    )
    fails(
        path,
        state | {"bn1.bias": torch.ones(4, dtype=torch.int64)},
        SmallResNet(),
        r"bn1.bias \(4,\) int64 instead of \(4,\) float32",
    )
    fails(path, state | {"bn1.bias": torch.tensor([1, 2, 3, float("nan")])}, SmallResNet(), "NaN", CorruptFileError)
    fails(path, {"epoch": 3}, SmallResNet(), "named tensors", CorruptFileError)
    fails(path, [1, 2], SmallResNet(), "named tensors", CorruptFileError)
    fails(path, {"x": torch.ones(3)}, SmallResNet(), "another architecture")
    long = {"a." * 100_000 + "weight": torch.ones(3)} | state
    fails(path, long, SmallResNet(), "1 unexpected")


def test_a_whole_pickled_module_is_explained(tmp_path):
    with pytest.raises(CorruptFileError, match=r"an object of torch.nn.modules.linear.Linear.*state_dict\(\)"):
        load_robust_imagenet(written(tmp_path / "a.pth", nn.Linear(2, 2)), nn.Linear(2, 2))


def test_counters_of_batches_may_be_missing(truth, state, tmp_path):
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    for network in (None, SmallResNet()):
        loaded = load_robust_imagenet(written(tmp_path / "a.pth", old), network, normalise=None)
        assert torch.allclose(loaded.module(IMAGES), truth(IMAGES))
        assert len(loaded.report.filled) == len(state) - len(old)
        assert int(loaded.module.bn1.num_batches_tracked) == 0


def test_halves_become_the_type_of_the_network(state, tmp_path):
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    for network in (None, SmallResNet()):
        loaded = load_robust_imagenet(written(tmp_path / "a.pth", half), network, normalise=None)
        assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
        assert torch.equal(loaded.module.fc.weight, half["fc.weight"].float())


def test_the_checksum_is_compared(state, tmp_path):
    path = written(tmp_path / "a.pth", state)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_robust_imagenet(path, normalise=None, sha256=found[:8].upper()).report.sha256 == found
    path.write_bytes(as_bytes(state, "stream")[:-1] + b"\x00")  # A change that the old format does not notice.
    with pytest.raises(CorruptFileError, match="sha256"):
        load_robust_imagenet(path, normalise=None, sha256=found)


def test_what_cannot_take_weights_is_refused(state, tmp_path):
    path = written(tmp_path / "a.pth", state)
    with pytest.raises(ConfigError, match="a module or what makes one"):
        load_robust_imagenet(path, dict)
    with pytest.raises(ConfigError, match="meta device"), torch.device("meta"):
        load_robust_imagenet(path, SmallResNet(), normalise=None)
    with pytest.raises(DataNotFoundError):
        load_robust_imagenet(tmp_path / "none.ckpt")
    with pytest.raises(ConfigError, match=r"pass the network they belong to"):
        load_robust_imagenet(written(tmp_path / "b.pth", {"a.weight": torch.ones(2)}))
    assert issubclass(CorruptFileError, PluriformError)


def test_a_few_numbers_cannot_claim_the_memory_of_many(state, tmp_path):
    """Strides of zero make a tensor of any shape from one number."""
    huge = state | {"fc.weight": torch.ones(1, 1).expand(10_000_000, 8), "fc.bias": torch.ones(1).expand(10_000_000)}
    with pytest.raises(ConfigError, match="pass the network"):
        load_robust_imagenet(written(tmp_path / "a.pth", huge), normalise=None)
