//! Transcendental functions over lanes of `f32`, one formula for all levels.
//!
//! Each is: reduce the argument exactly, a short minimax polynomial (fitted for relative error, then rounded to `f32`
//! coefficient by coefficient), and put the pieces together so that only the last addition rounds visibly. Greatest
//! errors in ULP over all of `f32` are given with each. Zeros keep their sign, denormals are exact, NaN stays NaN.
//! Leaves out what is rare in training (`asin`, `sinh`, `pow` …): those go lane by lane through `f64`.

use super::simd::F32Lanes;

/// 1.5 · 2²³: adding it rounds a number below 2²² to an integer, which then stands in the low bits.
const ROUNDER: f32 = 12582912.0;

/// c₀ + c₁x + c₂x² + …
#[inline(always)]
fn polynomial<L: F32Lanes, const N: usize>(x: L, coefficients: [f32; N]) -> L {
    let mut sum = L::splat(coefficients[N - 1]);
    for &c in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(x, L::splat(c));
    }
    sum
}

#[inline(always)]
fn with_sign_of<L: F32Lanes>(size: L, x: L) -> L {
    L::from_bits(L::int_xor(size.to_bits(), L::int_and(x.to_bits(), L::int(i32::MIN))))
}

/// x = n·ln 2 + r with an integer n and |r| ≤ ln 2 / 2.
#[inline(always)]
fn octaves<L: F32Lanes>(x: L) -> (L, L) {
    let n = x.mul_add(L::splat(std::f32::consts::LOG2_E), L::splat(ROUNDER)) - L::splat(ROUNDER);
    let r = n.mul_add(L::splat(-std::f32::consts::LN_2), x);
    (n, n.mul_add(L::splat(1.904_654_2e-9), r)) // the rest of ln 2 is negative
}

/// e^x = m · 2ⁿ with 0.7 < m < 1.42, for x within ±200.
#[inline(always)]
fn exp_parts<L: F32Lanes>(x: L) -> (L, L) {
    let (n, r) = octaves(x);
    (expm1_of_rest(r) + L::splat(1.0), n)
}

/// e^r - 1 for |r| ≤ ln 2 / 2.
#[inline(always)]
fn expm1_of_rest<L: F32Lanes>(r: L) -> L {
    let q = polynomial(r, [0.5, 0.166_666_66, 0.041_666_463, 0.008_333_57, 0.001_393_508_7, 0.000_197_403_19]);
    (r * r).mul_add(q, r)
}

#[inline(always)]
pub fn exp<L: F32Lanes>(x: L) -> L {
    let (m, n) = exp_parts(x.clamp(-104.0, 89.0));
    m.scale(n)
}

#[inline(always)]
pub fn exp2<L: F32Lanes>(x: L) -> L {
    let x = x.clamp(-151.0, 129.0);
    let n = (x + L::splat(ROUNDER)) - L::splat(ROUNDER);
    let r = x - n;
    let q = polynomial(
        r,
        [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_596, 0.009_618_5, 0.001_339_097_6, 0.000_153_289_07],
    );
    r.mul_add(q, L::splat(1.0)).scale(n)
}

#[inline(always)]
pub fn expm1<L: F32Lanes>(x: L) -> L {
    let (n, r) = octaves(x.clamp(-104.0, 89.0));
    let coefficients = [0.5, 0.166_666_66, 0.041_666_493, 0.008_333_545, 0.001_393_233_1, 0.000_197_625_72];
    let q = polynomial(r, coefficients);
    // Half of the result, because 2ⁿ itself may not be a number where the result is:
    // (2ⁿ - 1)/2 + 2ⁿr/2 with its rounding error, + 2ⁿr²q/2.
    let half_power = L::splat(0.5).scale(n);
    let (whole, part) = (half_power - L::splat(0.5), half_power * r);
    let sum = whole + part;
    let error = (whole - sum) + part;
    let result = (sum + (half_power * (r * r)).mul_add(q, error)) * L::splat(2.0);
    L::select(x.abs().lt(L::splat(1e-10)), x, result)
}

/// x = 2^e · (1 + f) with -0.3 < f < 0.42, for x > 0.
#[inline(always)]
fn log_parts<L: F32Lanes>(x: L) -> (L, L) {
    let denormal = x.lt(L::splat(f32::MIN_POSITIVE));
    let bits = L::select(denormal, x * L::splat(8_388_608.0), x).to_bits();
    let exponent = L::shift_right::<23>(L::int_sub(bits, L::int(HALF_ROOT)));
    let mantissa = L::from_bits(L::int_sub(bits, L::shift_left::<23>(exponent)));
    let e = L::from_int(exponent) - L::select(denormal, L::splat(23.0), L::splat(0.0));
    (e, mantissa - L::splat(1.0))
}

/// The bits of √½.
const HALF_ROOT: i32 = 0x3f35_04f3;

/// ln(1 + f) - f, for the f of `log_parts`.
#[inline(always)]
fn log_rest<L: F32Lanes>(f: L) -> L {
    let p = polynomial(
        f,
        [
            0.333_333_13,
            -0.250_000_1,
            0.200_020_78,
            -0.166_68,
            0.142_201_75,
            -0.124_058_44,
            0.118_848_47,
            -0.116_735,
            0.067_502_8,
        ],
    );
    (f * f) * f.mul_add(p, L::splat(-0.5))
}

/// e·octave + f + rest, where e·octave.0 is exact and outweighs f; then the cases that are no logarithms.
#[inline(always)]
fn log_sum<L: F32Lanes>(x: L, e: L, octave: (f32, f32), f: L, rest: L) -> L {
    let whole = e * L::splat(octave.0);
    let sum = whole + f;
    let error = (whole - sum) + f;
    let result = sum + (error + e.mul_add(L::splat(octave.1), rest));
    let result = L::select(x.lt(L::splat(f32::INFINITY)), result, x);
    let at_zero = L::select(x.eq(L::splat(0.0)), L::splat(f32::NEG_INFINITY), L::splat(f32::NAN));
    L::select(x.le(L::splat(0.0)), at_zero, result)
}

const LN_2: (f32, f32) = (0.693_145_75, 1.428_606_8e-6);

#[inline(always)]
pub fn ln<L: F32Lanes>(x: L) -> L {
    let (e, f) = log_parts(x);
    log_sum(x, e, LN_2, f, log_rest(f))
}

#[inline(always)]
pub fn log2<L: F32Lanes>(x: L) -> L {
    log_to_base(x, (1.0, 0.0), (std::f32::consts::LOG2_E, 1.925_963e-8))
}

#[inline(always)]
pub fn log10<L: F32Lanes>(x: L) -> L {
    log_to_base(x, (0.301_033_02, -3.024_355_5e-6), (std::f32::consts::LOG10_E, -1.010_305e-8))
}

/// `octave` is the logarithm of 2, `unit` that of Euler's number, each in two parts.
#[inline(always)]
fn log_to_base<L: F32Lanes>(x: L, octave: (f32, f32), unit: (f32, f32)) -> L {
    let (e, f) = log_parts(x);
    let product = f * L::splat(unit.0);
    let error = f.mul_add(L::splat(unit.0), -product);
    let rest = f.mul_add(L::splat(unit.1), log_rest(f).mul_add(L::splat(unit.0), error));
    log_sum(x, e, octave, product, rest)
}

#[inline(always)]
pub fn log1p<L: F32Lanes>(x: L) -> L {
    let bits = (x + L::splat(1.0)).to_bits();
    let exponent = L::shift_right::<23>(L::int_sub(bits, L::int(HALF_ROOT)));
    // f = (1 + x)/2^e - 1 from x itself: 1 + x has already been rounded.
    let e = L::from_int(exponent);
    let scaled = L::from_bits(L::int_sub(x.to_bits(), L::shift_left::<23>(exponent)));
    let f = scaled + (L::splat(1.0).scale(-e) - L::splat(1.0));
    let whole = e * L::splat(LN_2.0);
    let sum = whole + f;
    let error = (whole - sum) + f;
    let result = sum + (error + e.mul_add(L::splat(LN_2.1), log_rest(f)));
    let usual = L::and(x.abs().gt(L::splat(1e-10)), x.lt(L::splat(f32::INFINITY)));
    let at_minus_one = L::select(x.eq(L::splat(-1.0)), L::splat(f32::NEG_INFINITY), L::splat(f32::NAN));
    L::select(x.le(L::splat(-1.0)), at_minus_one, L::select(usual, result, x))
}

#[inline(always)]
pub fn sigmoid<L: F32Lanes>(x: L) -> L {
    // e^x / (1 + e^x) keeps the left tail; no exponential overflows.
    let e = exp(-x.abs());
    let one = L::splat(1.0);
    L::select(x.lt(L::splat(0.0)), e, one) / (one + e)
}

#[inline(always)]
pub fn tanh<L: F32Lanes>(x: L) -> L {
    let size = x.abs();
    let square = x * x;
    let p =
        polynomial(square, [-0.333_333_25, 0.133_33, -0.053_922_288, 0.021_575_91, -0.007_891_555, 0.001_900_987_5]);
    let near = (size * square).mul_add(p, size);
    // At 20 the result is 1, and e^40 still has an inverse.
    let (m, n) = exp_parts((size + size).clamp(0.0, 40.0));
    let far = (m.scale(n) + L::splat(1.0)).inverse().mul_add(L::splat(-2.0), L::splat(1.0));
    with_sign_of(L::select(size.lt(L::splat(0.7)), near, far), x)
}

/// erf(x) for |x| < 0.92.
#[inline(always)]
fn erf_near<L: F32Lanes>(x: L) -> L {
    let p = polynomial(
        x * x,
        [0.128_379_17, -0.376_126_3, 0.112_836_26, -0.026_855_74, 0.005_192_460_5, -0.000_805_080_4, 8.002_775e-5],
    );
    x.mul_add(p, x)
}

#[inline(always)]
pub fn erf<L: F32Lanes>(x: L) -> L {
    let size = x.abs();
    // ln erfc(x)
    let g = polynomial(
        size.clamp(0.0, 4.0),
        [
            -0.000_166_439_09,
            -1.127_797_2,
            -0.636_976_1,
            -0.104_113_616,
            0.022_315_178,
            -0.003_065_483_4,
            0.000_198_219_55,
        ],
    );
    let (m, n) = exp_parts(g);
    let far = L::splat(1.0) - m.scale(n);
    with_sign_of(L::select(size.lt(L::splat(0.92)), erf_near(size), far), x)
}

/// Relative accuracy in the right tail, down to the denormals.
#[inline(always)]
pub fn erfc<L: F32Lanes>(x: L) -> L {
    let size = x.abs().clamp(0.0, 10.1);
    // erfc(a) = e^(-a²) · P(q) / (a + c) with q = (a - c)/(a + c); this c is one whose P(0) is nearly an f32. Each
    // factor carries its rounding error along: four of them would add up to more than 4 ULP.
    let (one, c) = (L::splat(1.0), L::splat(2.875));
    let divisor = size + c;
    let divisor_error = size - (divisor - c);
    let inverse = one / divisor;
    let missing = (-inverse).mul_add(divisor_error, (-inverse).mul_add(divisor, one));
    let q = (size - c) * inverse;
    let p = polynomial(
        q.mul_add(missing, q),
        [
            1.069_815_9,
            -0.866_432_9,
            0.559_491_63,
            -0.276_614_93,
            0.094_454_82,
            -0.014_613_234,
            -0.004_188_319,
            0.002_376_880_5,
        ],
    );
    let fraction = p * inverse;
    let fraction_error = fraction.mul_add(missing, p.mul_add(inverse, -fraction));
    let square = size * size;
    let (n, r) = octaves(-square);
    let change = expm1_of_rest(r + size.mul_add(-size, square));
    let m = one + change;
    let m_error = (one - m) + change;
    let tail = m.mul_add(fraction, m.mul_add(fraction_error, m_error * fraction)).scale(n);
    let far = L::select(x.lt(L::splat(0.0)), L::splat(2.0) - tail, tail);
    L::select(size.lt(L::splat(0.92)), L::splat(1.0) - erf_near(x), far)
}

/// The size of x as far as the normal distribution can be told from 0, and e^(-x²/2) = (1 + m) · 2ⁿ, as (size, m, n).
#[inline(always)]
fn bell_parts<L: F32Lanes>(x: L) -> (L, L, L) {
    let size = x.abs().clamp(0.0, 14.5);
    let square = size * size;
    let lost = size.mul_add(size, -square);
    let half = L::splat(-0.5);
    let (n, r) = octaves(square * half);
    (size, expm1_of_rest(lost.mul_add(half, r)), n)
}

/// Relative accuracy in the left tail, down to the denormals.
#[inline(always)]
pub fn normal_cdf<L: F32Lanes>(x: L) -> L {
    let (size, m, n) = bell_parts(x);
    // Φ(-a) = e^(-a²/2) · P(q) / (a + c) with q = (a - c)/(a + c); this c is one whose P(0) is nearly an f32.
    const C: f32 = 3.773_437_5;
    let inverse = (size + L::splat(C)).inverse();
    let p = polynomial(
        // By way of a/(a + c): what the inverse lacks matters less the smaller a is.
        (size * inverse).mul_add(L::splat(2.0), L::splat(-1.0)),
        [
            0.750_796_8,
            -0.590_152_44,
            0.356_283_43,
            -0.154_831_75,
            0.039_537_66,
            0.000_522_295_6,
            -0.004_199_776_3,
            0.000_612_683_07,
            0.000_451_410_16,
        ],
    );
    let fraction = p * inverse;
    let tail = m.mul_add(fraction, fraction).scale(n);
    L::select(x.lt(L::splat(0.0)), tail, L::splat(1.0) - tail)
}

#[inline(always)]
pub fn normal_pdf<L: F32Lanes>(x: L) -> L {
    let (_, m, n) = bell_parts(x);
    m.mul_add(L::splat(0.398_942_3), L::splat(0.398_942_3)).scale(n)
}

#[inline(always)]
pub fn sin<L: F32Lanes>(x: L) -> L {
    let (turned, huge) = circular(x.abs(), 0);
    let result = with_sign_of(turned, x);
    if L::any(huge) { L::select(huge, x.map(|x| f64::sin(x as f64) as f32), result) } else { result }
}

#[inline(always)]
pub fn cos<L: F32Lanes>(x: L) -> L {
    let (result, huge) = circular(x.abs(), 1);
    if L::any(huge) { L::select(huge, x.map(|x| f64::cos(x as f64) as f32), result) } else { result }
}

/// sin(x + quarter·π/2) for x ≥ 0, and where x is too large for that.
#[inline(always)]
fn circular<L: F32Lanes>(x: L, quarter: i32) -> (L, L::Mask) {
    let huge = x.gt(L::splat(40_000.0));
    let rounded = x.mul_add(L::splat(std::f32::consts::FRAC_2_PI), L::splat(ROUNDER));
    let n = rounded - L::splat(ROUNDER);
    // π/2 in three parts. The first step is exact.
    let r = n.mul_add(L::splat(-std::f32::consts::FRAC_PI_2), x);
    let r = n.mul_add(L::splat(4.371_139e-8), r);
    let r = n.mul_add(L::splat(1.715_124_5e-15), r);
    let s = r * r;
    let sine = (r * s).mul_add(polynomial(s, [-0.166_666_55, 0.008_332_187, -0.000_195_179_09]), r);
    let rest = polynomial(s, [0.041_666_646, -0.001_388_731, 2.443_233_6e-5]);
    // 1 - s/2 rounds as much as the result: its error goes into the last addition.
    let (one, half) = (L::splat(1.0), s * L::splat(0.5));
    let most = one - half;
    let cosine = most + (s * s).mul_add(rest, (one - most) - half);
    let quadrant = L::int_add(rounded.to_bits(), L::int(quarter));
    let is_cosine = L::int_test(L::int_and(quadrant, L::int(1)));
    let sign = L::shift_left::<30>(L::int_and(quadrant, L::int(2)));
    let result = L::select(is_cosine, cosine, sine);
    (L::from_bits(L::int_xor(result.to_bits(), sign)), huge)
}

#[inline(always)]
pub fn rsqrt<L: F32Lanes>(x: L) -> L {
    L::splat(1.0) / x.sqrt()
}

#[cfg(test)]
mod tests;
