"""Small data sets, and forms with known answers."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.data.data import Data, Split
from pluriform.data.signature import Signature
from pluriform.prediction import Prediction, Predictor

CLASSES = ("left", "middle", "right")


class Plain(Predictor):
    """One network as a form."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__(signature)
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)


class Pair(Predictor):
    """Two networks whose probabilities are averaged, with a score of its own."""

    def __init__(self, first: nn.Module, second: nn.Module, signature: Signature) -> None:
        super().__init__(signature)
        self.parts = nn.ModuleList([first, second])

    def members(self, inputs: Tensor) -> Tensor:
        return torch.stack([part(inputs).softmax(-1) for part in self.parts])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.members(inputs).mean(0).log()

    def predict_batch(self, inputs: Tensor) -> Prediction:
        members = self.members(inputs)
        return Prediction(members.mean(0), members=members, score=-inputs.flatten(1).mean(1))


def stripes(size: int, seed: int, sort: bool = False) -> Split:
    """Images 1x6x6 with a bright stripe at the left, in the middle or at the right, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (size,), generator=generator)
    labels = labels.sort().values if sort else labels
    columns = F.one_hot(labels, 3).float().repeat_interleave(2, 1)[:, None, None, :]
    images = 0.35 + 0.3 * columns + 0.25 * torch.randn(size, 1, 6, 6, generator=generator)
    return Split(images.clamp(0, 1), labels)


def trained(module: nn.Module, data: Data, steps: int = 60) -> nn.Module:
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    inputs, targets = data.train.batch(torch.arange(len(data.train)))
    for _ in range(steps):
        optimiser.zero_grad()
        outputs = module(inputs)
        loss = F.cross_entropy(outputs, targets) if data.classes else F.mse_loss(outputs, targets)
        loss.backward()
        optimiser.step()
    return module.eval()


@pytest.fixture(scope="session")
def data() -> Data:
    return Data("stripes", "classification", stripes(300, 0), stripes(100, 1), stripes(240, 2), CLASSES, (0.0, 1.0))


@pytest.fixture(scope="session")
def net(data) -> nn.Module:
    torch.manual_seed(0)
    return trained(nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 3)), data)


@pytest.fixture(scope="session")
def form(net, data) -> Plain:
    return Plain(net, data.signature)


@pytest.fixture(scope="session")
def pair(net, data) -> Pair:
    torch.manual_seed(1)
    other = trained(nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 3)), data)
    return Pair(net, other, data.signature)


@pytest.fixture(scope="session")
def curve_data() -> Data:
    """`y = sin(3 x) + noise of deviation 0.2`."""

    def split(size: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        x = 2 * torch.rand(size, 1, generator=generator) - 1
        return Split(x, (3 * x).sin() + 0.2 * torch.randn(size, 1, generator=generator))

    return Data("sine", "regression", split(300, 0), split(200, 1), split(400, 2))


@pytest.fixture(scope="session")
def curve_form(curve_data) -> Plain:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 50), nn.Tanh(), nn.Linear(50, 1))
    return Plain(trained(module, curve_data, 400), curve_data.signature)
