import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from pluriform.data.check import check_fit_data
from pluriform.data.data import Split, StreamSplit
from pluriform.data.load import load
from pluriform.errors import ConfigError, ShapeError


class Numbers(Dataset):
    """Item i is a picture of value i / 1000 with label i % 4; counts its reads."""

    def __init__(self, number=1000, **attributes):
        self.number, self.reads = number, 0
        self.__dict__.update(attributes)

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        self.reads += 1
        return torch.full((1, 2, 2), index / 1000), index % 4


def test_a_stream_is_split_without_being_read():
    dataset = Numbers(targets=[at % 4 for at in range(1000)], classes=["a", "b", "c", "d"])
    data = load(dataset)
    assert dataset.reads <= 64
    assert isinstance(data.train, StreamSplit)
    assert (data.name, data.task, data.bounds) == ("Numbers", "classification", (0.0, 1.0))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [720, 80, 200]
    inputs, labels = data.test.batch(torch.arange(200))
    assert torch.bincount(labels).tolist() == [50] * 4
    assert torch.equal((inputs[:, 0, 0, 0] * 1000).round().long() % 4, labels)
    orders = torch.cat([part.order for part in (data.train, data.validation, data.test)])
    assert sorted(orders.tolist()) == list(range(1000))
    check_fit_data(data)


def test_without_labels_the_classes_are_given():
    data = load(Numbers(), classes=["a", "b", "c", "d"], name="numbers")
    assert data.outputs == 4
    assert len(data.test) == 200
    with pytest.raises(ConfigError, match=r"expected the classes of the stream; .* To fix: give classes="):
        load(Numbers())


def test_another_dataset_to_test_on():
    data = load(Numbers(), Numbers(30), classes=list("abcd"))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [900, 100, 30]


def test_tensors_in_memory_are_taken_as_arrays():
    data = load(TensorDataset(torch.rand(50, 3), torch.arange(50) % 2))
    assert isinstance(data.train, Split)
    assert data.classes == ("0", "1")


class Endless(IterableDataset):
    """Has no length."""

    def __iter__(self):
        return iter(())


class Odd(Numbers):
    """Every item is what is given."""

    def __getitem__(self, index):
        return self.item


def test_datasets_that_are_no_streams():
    with pytest.raises(ConfigError, match="expected a map-style Dataset with samples; got Endless without a length"):
        load(Endless())
    with pytest.raises(ConfigError, match="got one of length 0"):
        load(Numbers(0))
    with pytest.raises(
        ShapeError, match=r"expected pairs of a floating-point tensor and a target; got Tensor torch\.uint8"
    ):
        load(Odd(item=(torch.zeros(2, dtype=torch.uint8), 1)))
    with pytest.raises(ShapeError, match="got dict"):
        load(Odd(item={}))
