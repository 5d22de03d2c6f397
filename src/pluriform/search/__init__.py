"""Architecture search by function-preserving morphisms and a Gaussian process over architectures.

A strategy asks and tells over a space: `strategy.ask()` gives a candidate, `strategy.tell(candidate, score)` takes its
score, higher being better unless `direction="minimize"`. A space is any object with `random(generator)` (a
`numpy.random.Generator`), `neighbours(candidate)` and `distance(a, b)`.
"""

from pluriform.search.annealed_search import Annealing, annealed_search
from pluriform.search.architecture import Architecture, architecture
from pluriform.search.auto_keras import AutoKeras
from pluriform.search.bayesian_search import BayesianSearch
from pluriform.search.benchmark_tables import nas_bench_201, nas_bench_macro
from pluriform.search.layer_distance import layer_distance
from pluriform.search.local_search import LocalSearch
from pluriform.search.morph_space import MorphSpace
from pluriform.search.mutate_incumbent import MutateIncumbent
from pluriform.search.random_search import RandomSearch
from pluriform.search.regularised_evolution import RegularisedEvolution
from pluriform.search.skip_distance import skip_distance
from pluriform.search.space import Space
from pluriform.search.strategy import Strategy
from pluriform.search.table import Part, Replay, Table, replay

__all__ = [
    "Annealing",
    "Architecture",
    "AutoKeras",
    "BayesianSearch",
    "LocalSearch",
    "MorphSpace",
    "MutateIncumbent",
    "Part",
    "RandomSearch",
    "RegularisedEvolution",
    "Replay",
    "Space",
    "Strategy",
    "Table",
    "annealed_search",
    "architecture",
    "layer_distance",
    "nas_bench_201",
    "nas_bench_macro",
    "replay",
    "skip_distance",
]
