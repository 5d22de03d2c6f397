import pytest
import torch

from pluriform.ensemble.mnf.flow import Flow, FlowStep


def seeded(size: int, steps: int, start: float = 0.0) -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        flow = Flow(size, steps, 7, start).double()
        with torch.no_grad():  # Far from the identity, so that every term of the determinant counts.
            for parameter in flow.parameters():
                parameter.add_(0.7 * torch.randn_like(parameter))
    return flow


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_log_determinant_is_that_of_the_jacobian(steps):
    flow = seeded(5, steps)
    for z in torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        jacobian = torch.autograd.functional.jacobian(lambda z: flow(z).z, z)
        assert torch.allclose(flow(z).log_det, torch.linalg.slogdet(jacobian).logabsdet, atol=1e-10)
        assert steps == 0 or flow(z).log_det.abs() > 0.1


def test_rows_do_not_mix():
    flow = seeded(6, 2)
    z = torch.randn(3, 4, 6, dtype=torch.float64)
    whole = flow(z)
    assert whole.log_det.shape == (3, 4)
    assert torch.allclose(whole.z[1, 2], flow(z[1, 2]).z)
    assert torch.allclose(whole.log_det[1, 2], flow(z[1, 2]).log_det)


def test_a_step_keeps_what_its_mask_keeps_and_two_steps_move_everything():
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    z = torch.randn(8, 4)
    moved = FlowStep(mask, 5)(z).z
    assert torch.equal(moved[:, [0, 2]], z[:, [0, 2]])
    assert not torch.isclose(moved[:, [1, 3]], z[:, [1, 3]]).any()
    z = torch.randn(8, 50)
    assert not torch.isclose(seeded(50, 2).float()(z).z, z).any()
    first, second = Flow(50, 2, 5).steps
    assert torch.equal(first.mask + second.mask, torch.ones(50))
    assert first.mask.sum() == 25


def test_before_training_a_flow_leaves_its_start_where_it_is():
    z = torch.ones(20)
    assert torch.allclose(Flow(20, 2, 50, start=1.0)(z).z, z, atol=0.05)
    assert (Flow(20, 2, 50, start=0.0)(z).z < 0.95).all()
