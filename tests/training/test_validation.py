import torch
from torch import nn

from pluriform.data.data import Split
from pluriform.training.loss import Loss
from pluriform.training.validation import assess, residual_variance

CPU = torch.device("cpu")


def test_batches_are_averaged_by_their_size(digits, net):
    inputs, targets = digits.train.inputs.repeat(6, 1, 1, 1), digits.train.targets.repeat(6)
    found = assess(net, Split(inputs, targets), Loss("classification"), CPU)
    outputs = net.eval()(digits.train.inputs)
    assert torch.allclose(found.loss, nn.functional.cross_entropy(outputs, digits.train.targets)[None], atol=1e-5)
    assert torch.allclose(found.accuracy, (outputs.argmax(1) == digits.train.targets).float().mean()[None])
    assert found.log().keys() == {"validation_loss", "validation_accuracy"}


def test_residual_variance_is_by_output():
    split = Split(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 0.0], [4.0, 0.0]]))
    net = nn.Linear(1, 2, bias=False)
    net.weight.data.fill_(1.0)
    assert residual_variance(net, split, CPU).tolist() == [2.0, 2.5]
    assert assess(net, split, Loss("regression"), CPU).accuracy is None
