"""The environment is plain JSON and names the versions."""

import json

import torch

from pluriform.evaluation.environment import environment


def test_environment_is_json_with_versions():
    found = json.loads(json.dumps(environment()))
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["processor"]
