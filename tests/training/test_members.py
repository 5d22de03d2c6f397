import torch
from torch import nn

from pluriform.training.members import Members


def build():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def test_outputs_gradients_and_statistics_are_those_of_each_member():
    nets = [build() for _ in range(3)]
    inputs = torch.randn(3, 5, 1, 4, 4)
    stack = Members(nets).train()
    outputs = stack(inputs)
    outputs.square().sum().backward()
    expected = [net.train()(part) for net, part in zip(nets, inputs, strict=True)]
    assert torch.allclose(outputs, torch.stack(expected), atol=1e-6)
    torch.stack(expected).square().sum().backward()
    for name, parameter in stack.named_parameters():
        oracle = torch.stack([net.get_parameter(name.replace("/", ".")).grad for net in nets])
        assert torch.allclose(parameter.grad, oracle, atol=1e-4), name
    mean = nets[1][1].running_mean.clone()
    stack.unstack()
    assert torch.allclose(nets[1][1].running_mean, mean, atol=1e-6)
    assert nets[1][1].num_batches_tracked == 1


def test_mode_and_weights_reach_the_members():
    nets = [build() for _ in range(2)]
    stack = Members(nets).eval()
    inputs = torch.randn(2, 5, 1, 4, 4)
    assert torch.allclose(stack(inputs)[1], nets[1].eval()(inputs[1]), atol=1e-6)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.fill_(0.5)
    stack.unstack()
    assert all((parameter == 0.5).all() for net in nets for parameter in net.parameters())
    assert len(list(stack.children())) == 0
