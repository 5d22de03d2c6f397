"""Closed forms of single entries in float32: what the inner loops inline.

Each takes the covariance `q`, the NTK `t` and two numbers of the variances of each side (`root`, `inverse`: see
`tables`), and gives the new covariance and NTK. `infinite.activation` holds the formulas and their sources.
"""

import numpy as np

from pluriform.infinite.engine.compile import compiled

__all__ = ["arc_cosine", "bend_entry", "erf_entry", "exponential", "gelu_entry", "sine_entry"]

F = np.float32
ZERO, ONE, TWO, HALF, QUARTER = F(0), F(1), F(2), F(0.5), F(0.25)
PI, HALF_PI, TWO_PI = F(np.pi), F(np.pi / 2), F(2 * np.pi)

# arccos(u) = sqrt(1 - u) P(u) for 0 <= u <= 1, error 2e-8: Abramowitz & Stegun 1964, 4.4.46.
A0, A1, A2, A3 = F(1.5707963050), F(-0.2145988016), F(0.0889789874), F(-0.0501743046)
A4, A5, A6, A7 = F(0.0308918810), F(-0.0170881256), F(0.0066700901), F(-0.0012624911)

# exp(r) for -5/8 <= r <= 0 by its series; six squarings then reach -40.
FLOOR, SHRINK = F(-40), F(1 / 64)
E2, E3, E4, E5 = F(1 / 2), F(1 / 6), F(1 / 24), F(1 / 120)
E6, E7, E8, E9 = F(1 / 720), F(1 / 5040), F(1 / 40320), F(1 / 362880)


@compiled
def arc_cosine(c):
    """`(arccos c, sqrt(1 - c^2))` of a correlation."""
    u = abs(c)
    root = np.sqrt(ONE - u)
    angle = root * (((((((A7 * u + A6) * u + A5) * u + A4) * u + A3) * u + A2) * u + A1) * u + A0)
    return (angle if c >= ZERO else PI - angle), root * np.sqrt(ONE + u)


@compiled
def exponential(x):
    """`exp(x)` for `x <= 0`; 0 to rounding below -40."""
    r = max(x, FLOOR) * SHRINK
    y = ((((((((E9 * r + E8) * r + E7) * r + E6) * r + E5) * r + E4) * r + E3) * r + E2) * r + ONE) * r + ONE
    for _ in range(6):
        y = y * y
    return y


@compiled
def bend_entry(q, t, root1, inverse1, root2, inverse2, bend, half):
    """Two linear pieces that meet at 0, `bend = (a - b)^2 / 2 pi`, `half = (a^2 + b^2) / 2`; `root = sqrt(q11)`."""
    angle, sine = arc_cosine(min(max(q * inverse1 * inverse2, -ONE), ONE))
    slope = half - bend * angle
    return bend * root1 * root2 * sine + slope * q, slope * t


@compiled
def erf_entry(q, t, root1, inverse1, root2, inverse2):
    """The error function; `root = sqrt(1 + 2 q11)`."""
    inverse = inverse1 * inverse2
    angle, sine = arc_cosine(min(max(TWO * q * inverse, -ONE), ONE))
    return (TWO / PI) * (HALF_PI - angle), (TWO * TWO / PI) * inverse / sine * t


@compiled
def gelu_entry(q, t, root1, inverse1, root2, inverse2):
    """The exact GELU; `root = sqrt(1 + q11)`."""
    inverse = inverse1 * inverse2
    angle, sine = arc_cosine(min(max(q * inverse, -ONE), ONE))
    lean = HALF_PI - angle
    determinant = root1 * root2 * sine
    own = (root1 * root1 - ONE) * (root2 * root2 - ONE)
    over, square = inverse * inverse, determinant * determinant
    value = q * QUARTER + ((q * q + own * square) * over / determinant + q * lean) / TWO_PI
    bracket = ONE / square + (ONE - own) * over + ONE
    return value, (QUARTER + lean / TWO_PI + q * bracket / (TWO_PI * determinant)) * t


@compiled
def sine_entry(q, t, half1, half2, phase):
    """`sin(x + c)` with `phase = cos(2 c)`; `half = q11 / 2`."""
    near = exponential(min(q - half1 - half2, ZERO))
    far = phase * exponential(min(-q - half1 - half2, ZERO))
    return HALF * (near - far), HALF * (near + far) * t
