"""Every form of one network.

Bring an ordinary `torch.nn.Module` and a data set; pluriform gives back its other forms, each again a module, and
judges them all with one ruler:

    trace -> fit -> predict -> evaluate -> report

Names are imported when they are first used, so that `import pluriform` stays light.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pluriform import infinite, nets, search
    from pluriform.attacks.attack import attack
    from pluriform.attacks.auto_attack import auto_attack
    from pluriform.attacks.threat import Threat
    from pluriform.comparison import compare
    from pluriform.data.data import Data, Split
    from pluriform.data.load import load
    from pluriform.energy.dat import DAT
    from pluriform.energy.jem import JEM
    from pluriform.ensemble.apd.fit import APD
    from pluriform.ensemble.deep_ensemble import DeepEnsemble
    from pluriform.ensemble.hypergan.fit import HyperGAN
    from pluriform.ensemble.last_layer_laplace import LastLayerLaplace
    from pluriform.ensemble.mc_dropout import MCDropout
    from pluriform.ensemble.mnf.fit import MNF
    from pluriform.ensemble.swag import SWAG
    from pluriform.errors import PluriformError
    from pluriform.evaluation.evaluate import evaluate
    from pluriform.forms import load_form
    from pluriform.graph.channels import channel_groups
    from pluriform.graph.gather import gather
    from pluriform.graph.graph import Graph
    from pluriform.graph.trace import trace
    from pluriform.infinite.fit import InfiniteWidth
    from pluriform.method import Method
    from pluriform.narrow.distillation import Distillation
    from pluriform.narrow.wide_then_narrow import WideThenNarrow
    from pluriform.ordinary import Training
    from pluriform.prediction import Prediction, Predictor
    from pluriform.report.page import write_report
    from pluriform.result import Result
    from pluriform.robust.adversarial_training import AdversarialTraining
    from pluriform.robust.checkpoints import load_robust_imagenet
    from pluriform.robust.transfer import Transfer
    from pluriform.search.fit import MorphismSearch
    from pluriform.translate.fit import TSIT

_PLACES = {
    "APD": "pluriform.ensemble.apd.fit",
    "AdversarialTraining": "pluriform.robust.adversarial_training",
    "DAT": "pluriform.energy.dat",
    "Data": "pluriform.data.data",
    "DeepEnsemble": "pluriform.ensemble.deep_ensemble",
    "Distillation": "pluriform.narrow.distillation",
    "Graph": "pluriform.graph.graph",
    "HyperGAN": "pluriform.ensemble.hypergan.fit",
    "InfiniteWidth": "pluriform.infinite.fit",
    "JEM": "pluriform.energy.jem",
    "LastLayerLaplace": "pluriform.ensemble.last_layer_laplace",
    "MCDropout": "pluriform.ensemble.mc_dropout",
    "MNF": "pluriform.ensemble.mnf.fit",
    "Method": "pluriform.method",
    "MorphismSearch": "pluriform.search.fit",
    "PluriformError": "pluriform.errors",
    "Prediction": "pluriform.prediction",
    "Predictor": "pluriform.prediction",
    "Result": "pluriform.result",
    "SWAG": "pluriform.ensemble.swag",
    "Split": "pluriform.data.data",
    "TSIT": "pluriform.translate.fit",
    "Threat": "pluriform.attacks.threat",
    "Training": "pluriform.ordinary",
    "Transfer": "pluriform.robust.transfer",
    "WideThenNarrow": "pluriform.narrow.wide_then_narrow",
    "attack": "pluriform.attacks.attack",
    "auto_attack": "pluriform.attacks.auto_attack",
    "channel_groups": "pluriform.graph.channels",
    "compare": "pluriform.comparison",
    "evaluate": "pluriform.evaluation.evaluate",
    "gather": "pluriform.graph.gather",
    "load": "pluriform.data.load",
    "load_form": "pluriform.forms",
    "load_robust_imagenet": "pluriform.robust.checkpoints",
    "trace": "pluriform.graph.trace",
    "write_report": "pluriform.report.page",
}
_ROOMS = ("infinite", "nets", "search")

__all__ = [
    "APD",
    "AdversarialTraining",
    "DAT",
    "Data",
    "DeepEnsemble",
    "Distillation",
    "Graph",
    "HyperGAN",
    "InfiniteWidth",
    "JEM",
    "LastLayerLaplace",
    "MCDropout",
    "MNF",
    "Method",
    "MorphismSearch",
    "PluriformError",
    "Prediction",
    "Predictor",
    "Result",
    "SWAG",
    "Split",
    "TSIT",
    "Threat",
    "Training",
    "Transfer",
    "WideThenNarrow",
    "__version__",
    "attack",
    "auto_attack",
    "channel_groups",
    "compare",
    "evaluate",
    "gather",
    "infinite",
    "load",
    "load_form",
    "load_robust_imagenet",
    "nets",
    "search",
    "trace",
    "write_report",
]

try:
    __version__ = version("pluriform")
except PackageNotFoundError:
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"pluriform.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'pluriform' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
