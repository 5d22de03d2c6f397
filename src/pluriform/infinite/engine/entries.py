"""Closed forms of single entries in float32: what the inner loops inline.

Each takes the covariance `q`, the NTK `t` and two numbers of the variances of each side (`root`, `inverse`: see
`tables`), and gives the new covariance and NTK. `infinite.activation` holds the formulas and their sources.
"""

import numpy as np

from pluriform.infinite.engine.compile import compiled

__all__ = ["arc_cosine", "arc_sine", "bend_entry", "erf_entry", "exponential", "gelu_entry", "sine_entry"]

F = np.float32
ZERO, ONE, TWO, FOUR, HALF, QUARTER = F(0), F(1), F(2), F(4), F(0.5), F(0.25)
PI, HALF_PI, TWO_PI = F(np.pi), F(np.pi / 2), F(2 * np.pi)

# arccos(u) = sqrt(1 - u) P(u) for 0 <= u <= 1, error 2e-8: Abramowitz & Stegun 1964, 4.4.46.
A0, A1, A2, A3 = F(1.5707963050), F(-0.2145988016), F(0.0889789874), F(-0.0501743046)
A4, A5, A6, A7 = F(0.0308918810), F(-0.0170881256), F(0.0066700901), F(-0.0012624911)

# arcsin(w) = w + w^3 P(w^2) for |w| <= 1/2, error 1e-9: our fit at Chebyshev nodes.
S0, S1, S2 = F(0.16666666317142476), F(0.07500098732410748), F(0.04459803902054368)
S3, S4, S5 = F(0.03111609435017574), F(0.01707810772410301), F(0.03380538707074974)

# What is left of 1 - c, or of (q11 q22 - q12^2) / q11 q22, is no more than rounding: equal inputs then stay equal.
NEAR, NEAR_SQUARE = F(2**-22), F(2**-21)

# exp(r) for -5/8 <= r <= 0 by its series; six squarings then reach -40.
FLOOR, SHRINK = F(-40), F(1 / 64)
E2, E3, E4, E5 = F(1 / 2), F(1 / 6), F(1 / 24), F(1 / 120)
E6, E7, E8, E9 = F(1 / 720), F(1 / 5040), F(1 / 40320), F(1 / 362880)

# sinh(q) = q + q^3 / 6 + ... for |q| <= 1/2, where a difference of exponentials loses digits.
SINH3, SINH5, SINH7 = F(1 / 6), F(1 / 120), F(1 / 5040)


@compiled
def arc_cosine(c):
    """`(arccos c, sqrt(1 - c^2))` of a correlation; one that is 1 to rounding is 1."""
    u = abs(c)
    rest = ONE - u
    root = np.sqrt(rest if rest > NEAR else ZERO)
    angle = root * (((((((A7 * u + A6) * u + A5) * u + A4) * u + A3) * u + A2) * u + A1) * u + A0)
    return (angle if c >= ZERO else PI - angle), root * np.sqrt(ONE + u)


@compiled
def arc_sine(c, cosine):
    """`arcsin c`, precise for small `c` and, through `cosine = sqrt(1 - c^2)`, near 1."""
    u = abs(c)
    low = u <= HALF
    w = u if low else cosine / np.sqrt(TWO + TWO * u)
    z = w * w
    angle = w + w * z * (((((S5 * z + S4) * z + S3) * z + S2) * z + S1) * z + S0)
    angle = angle if low else HALF_PI - TWO * angle
    return angle if c >= ZERO else -angle


@compiled
def gram_determinant(q, own):
    """`q11 q22 - q12^2` with `own = q11 q22`, 0 where no more than rounding is left."""
    rest = own - q * q
    return rest if rest > NEAR_SQUARE * own else ZERO


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
    square1, square2, inverse = root1 * root1, root2 * root2, inverse1 * inverse2
    own = (square1 - ONE) * (square2 - ONE) * QUARTER
    root = np.sqrt(square1 + square2 - ONE + FOUR * gram_determinant(q, own))
    angle = arc_sine(min(max(TWO * q * inverse, -ONE), ONE), root * inverse)
    return (TWO / PI) * angle, (FOUR / PI) / root * t


@compiled
def gelu_entry(q, t, root1, inverse1, root2, inverse2):
    """The exact GELU; `root = sqrt(1 + q11)`."""
    square1, square2, inverse = root1 * root1, root2 * root2, inverse1 * inverse2
    own = (square1 - ONE) * (square2 - ONE)
    square, over = square1 + square2 - ONE + gram_determinant(q, own), inverse * inverse
    determinant = np.sqrt(square)
    lean = arc_sine(min(max(q * inverse, -ONE), ONE), determinant * inverse)
    value = q * QUARTER + ((q * q + own * square) * over / determinant + q * lean) / TWO_PI
    bracket = ONE / square + (square1 + square2) * over
    return value, (QUARTER + lean / TWO_PI + q * bracket / (TWO_PI * determinant)) * t


@compiled
def sine_entry(q, t, half1, half2, phase):
    """`sin(x + c)` with `phase = cos(2 c)`; `half = q11 / 2`."""
    near = exponential(min(q - half1 - half2, ZERO))
    far = exponential(min(-q - half1 - half2, ZERO))
    z = q * q
    sinh = q * (((SINH7 * z + SINH5) * z + SINH3) * z + ONE)
    odd = np.sqrt(near * far) * sinh if z <= QUARTER else HALF * (near - far)
    return odd + HALF * (ONE - phase) * far, (odd + HALF * (ONE + phase) * far) * t
