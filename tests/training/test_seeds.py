from pluriform.training.seeds import derive_seed, member_seed


def test_places_have_their_own_seeds():
    seeds = {derive_seed(seed, *place) for seed in (-1, 0, 1) for place in [(), ("a",), ("b",), ("a", 1), ("a", 2)]}
    assert len(seeds) == 15
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(3, "order", 7) == derive_seed(3, "order", 7)


def test_the_first_member_has_the_seed_of_the_fit():
    assert member_seed(5, 0) == 5
    assert len({member_seed(5, member) for member in range(100)}) == 100
