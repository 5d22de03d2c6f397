"""A small ResNet in torchvision's names, files in the layouts of publishers, and a watch over what a reader does."""

import codecs
import io
import pickle
import struct
import sys
import tarfile
from collections import OrderedDict
from contextlib import contextmanager

import torch
from torch import nn

FORBIDDEN = (
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "exec",
    "compile",
    "import",
    "pickle.find_class",
    "ctypes.",
    "code.",
    "urllib.",
    "webbrowser.",
    "tempfile.",
)
ALLOWED = ("os.listdir", "os.scandir")
for _encoding in ("ascii", "cp437", "latin-1", "raw-unicode-escape", "unicode-escape", "utf-8"):
    codecs.lookup(_encoding)  # Python imports what reads them on first use.
_events: list[str] | None = None


def _hook(event, arguments):
    if _events is None:
        return
    if event.startswith(FORBIDDEN) and event not in ALLOWED and not _of_annotations():
        _events.append(f"{event} {arguments}"[:200])
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        _events.append(f"open {arguments}")


def _of_annotations():
    """Whether the checkers of annotations, which compile code of their own in the test run, are at work."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(("beartype", "jaxtyping")):
            return True
        frame = frame.f_back
    return False


sys.addaudithook(_hook)


@contextmanager
def watched():
    """Everything that the interpreter reports while a file is read: no import, no command, no file written."""
    global _events
    _events = []
    try:
        yield _events
    finally:
        seen, _events = _events, None
    assert not seen, seen[:5]


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class SmallResNet(nn.Module):
    """ResNet-18's plan with 4 to 8 channels and two stages."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 2))
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def drawn(network, seed=0):
    """The network with every weight and statistic drawn, so that no two layers may be mixed up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return network.eval()


def renamed(state, prefix):
    return OrderedDict((prefix + name, value.clone()) for name, value in state.items())


def robustness_state(state, inner="model."):
    """Names as the robustness package writes them: the network, its attacker's copy, two normalisers."""
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    named = OrderedDict({"module.normalizer.new_mean": mean, "module.normalizer.new_std": std})
    named.update(renamed(state, f"module.{inner}"))
    named.update({"module.attacker.normalize.new_mean": mean.clone(), "module.attacker.normalize.new_std": std.clone()})
    named.update(renamed(state, f"module.attacker.{inner}"))
    return named


def as_bytes(content, container="zip", module=pickle):
    """What torch.save writes for `content`."""
    if container == "tar":
        return tar_bytes(content)
    stream = io.BytesIO()
    torch.save(content, stream, pickle_module=module, _use_new_zipfile_serialization=container == "zip")
    return stream.getvalue()


def tar_bytes(state):
    """A state dictionary as torch before 0.1.10 wrote it."""
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(state), storages, 2)
    pickle.dump(len(state), tensors, 2)
    ids = {}
    for number, (name, tensor) in enumerate(state.items()):
        tensor = tensor.contiguous()
        kind = {torch.float32: torch.FloatStorage, torch.int64: torch.LongStorage}[tensor.dtype]
        pickle.dump((1000 + number, "cpu", kind), storages, 2)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        pickle.dump((number, 1000 + number, torch.FloatTensor), tensors, 2)
        tensors.write(struct.pack("<ii", tensor.dim(), 0))
        tensors.write(struct.pack(f"<{2 * tensor.dim() + 1}q", *tensor.shape, *tensor.stride(), 0))
        ids[name] = number
    pickle.dump([], storages, 2)
    # The names point to tensors by persistent ids, as text.
    inner = b"(" + b"".join(b"S" + repr(n).encode() + b"\nP" + str(i).encode() + b"\n" for n, i in ids.items()) + b"d."
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, raw in (("storages", storages.getvalue()), ("tensors", tensors.getvalue()), ("pickle", inner)):
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return whole.getvalue()


def warm_up(load, path):
    """Read one honest file, so that what torch imports and compiles late is there before the watch begins."""
    path.write_bytes(as_bytes({"model": robustness_state(drawn(SmallResNet()).state_dict())}))
    load(path)
    path.write_bytes(as_bytes({"model": robustness_state(drawn(SmallResNet()).state_dict())}, "stream"))
    load(path, SmallResNet())
