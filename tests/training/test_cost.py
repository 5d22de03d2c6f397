import torch

from pluriform.training.cost import FitCost, peak_resident


def test_trainings_one_after_the_other_add_up():
    total = FitCost(1.5, 3, 30, 300, 100.0) + FitCost(2.0, 2, 20, 200, 150.0)
    assert total.to_json() == {
        "training_seconds": 3.5,
        "epochs": 3,
        "steps": 30,
        "sample_passes": 500,
        "peak_memory": 150.0,
    }


def test_peak_memory_is_at_least_what_is_held():
    held = torch.ones(32 * 2**20 // 4)
    assert peak_resident(torch.device("cpu")) > 32
    assert len(held)
