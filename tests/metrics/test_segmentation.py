import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from pluriform.errors import LabelError, ShapeError
from pluriform.metrics.segmentation import confusion, intersection_over_union, mean_iou, pixel_accuracy


def maps(classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (3, 8, 6), generator=generator)
    wrong = torch.rand(truth.shape, generator=generator) < 0.3
    return torch.where(wrong, torch.randint(classes, truth.shape, generator=generator), truth), truth


def test_against_sklearn():
    predicted, truth = maps()
    counts = confusion(predicted, truth, 5)
    flat = [side.flatten().numpy() for side in (truth, predicted)]
    assert counts.tolist() == confusion_matrix(*flat).tolist()
    assert pixel_accuracy(counts) == pytest.approx(float((predicted == truth).double().mean()))
    assert intersection_over_union(counts).tolist() == pytest.approx(jaccard_score(*flat, average=None).tolist())
    assert mean_iou(counts) == pytest.approx(jaccard_score(*flat, average="macro"))


def test_by_hand():
    counts = torch.tensor([[3, 1], [2, 4]])
    assert mean_iou(counts) == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert pixel_accuracy(counts) == pytest.approx(0.7)


def test_truth_with_itself_and_absent_classes():
    _, truth = maps()
    assert mean_iou(confusion(truth, truth, 9)) == 1
    never_true = torch.tensor([[[0, 2]]])
    assert mean_iou(confusion(never_true, torch.zeros(1, 1, 2, dtype=torch.long), 3)) == pytest.approx(0.5)


def test_faults():
    predicted, truth = maps()
    with pytest.raises(LabelError, match="predicted ids 0..1; got 0..4"):
        confusion(predicted, truth.clamp(max=1), 2)
    with pytest.raises(ShapeError, match="label maps of one shape"):
        confusion(predicted[:1], truth, 5)
