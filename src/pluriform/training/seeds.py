"""Seeds for the parts of a piece of work, each from the one seed of the fit."""

import hashlib

__all__ = ["derive_seed", "member_seed"]


def derive_seed(seed: int, *place: int | str) -> int:
    """A seed in 0..2^63-1 for one place (a member, an epoch, a step); different places give unrelated draws.

    Args:
        seed: Seed of the whole fit.
        place: Names and numbers of the place.
    """
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def member_seed(seed: int, member: int) -> int:
    """Seed of one member of an ensemble; member 0 has that of the fit, so that one member equals plain training."""
    return seed if member == 0 else derive_seed(seed, "member", member)
