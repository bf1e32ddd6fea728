//! Standard normal numbers by Box and Muller's transform (1958), √(−2 ln u) · cos(2πt), in whole numbers alone: so that every
//! processor and every GPU makes the same bits. `device/gpu/normal.wgsl` is this file in the language of GPUs; what changes
//! here changes there. Right to 0.54 units in the last place.
//!
//! A u32 stands for a fraction: "of 2³¹" means that 2³¹ is 1. Steps have no branches, so that loops over them are vectorised.

/// The upper half of a product.
#[inline(always)]
pub(super) fn high(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

/// ln 2 and ln 4/3, of 2³¹.
const LN_2: u32 = 1_488_522_236;
const LN_4_3: u32 = 617_792_546;

/// 1/18 to 1, of 2³¹.
const SHARES: [u32; 18] = {
    let mut shares = [0; 18];
    let mut i = 0;
    while i < 18 {
        shares[i] = (1 << 31) / (18 - i as u32);
        i += 1;
    }
    shares
};

/// −ln((w + 1) / 2³²) = m / 2³² · 2ⁿ as (m, n), the top bit of m set; m is of no use where w + 1 = 2³².
#[inline(always)]
fn logarithm(w: u32) -> (u32, i32) {
    let v = w.wrapping_add(1);
    let zeros = (v | 1).leading_zeros();
    let m = v << zeros;
    // 1 − y is in [2/3, 1): where m / 2³² is below 3/4 it is multiplied by 4/3.
    let far = m < 3 << 30;
    let y = if far { m + high(m, 0x5555_5555) } else { m }.wrapping_neg();
    // −ln(1 − y) / y = Σ yᵏ / (k + 1), of 2³¹, as far as there are digits.
    let mut series = 0u32;
    for share in SHARES {
        series = share + high(series, y);
    }
    // Near 1 the logarithm is as small as y, and has as many digits.
    let near = zeros == 0 && !far;
    let up = if near { (y | 1).leading_zeros() } else { 0 };
    let own = high(y << up, series);
    // That of the power of two, and of 3/4, in two words.
    let twos = zeros.wrapping_mul(LN_2);
    let low = twos.wrapping_add(own).wrapping_add(if far { LN_4_3 } else { 0 });
    let over = high(zeros, LN_2) + u32::from(low < twos);
    let (lead, lead_low) = (over.leading_zeros() & 31, (low | 1).leading_zeros());
    let m = if over > 0 { (over << lead) | ((low >> 1) >> (31 - lead)) } else { low << lead_low };
    let n = if over > 0 { 33 - lead as i32 } else { 1 - lead_low as i32 };
    (m, n - up as i32)
}

/// √(a / 2³²) of 2³¹, for a from 2³⁰ on: by Newton's steps towards 1/√, from a parabola that is within 2.5 percent of it.
#[inline(always)]
fn root(a: u32) -> u32 {
    let mut inverse = (2_867_885_245 - high(a, 3_527_896_445 - high(a, 1_759_571_007))) << 1;
    for _ in 0..3 {
        let rest = (3 << 30) - high(high(inverse, inverse), a);
        inverse = high(inverse, rest).min(0x7fff_ffff) << 1;
    }
    high(a, inverse)
}

/// cos(2π w / 2³²) = ± m / 2³² · 2ⁿ as (minus, m, n), the top bit of m set unless it is 0. By quarter turns, which are exact.
#[inline(always)]
fn cosine(w: u32) -> (u32, u32, i32) {
    let quarter = w.wrapping_add(1 << 29) >> 30;
    let (turn, sine) = (w.wrapping_sub(quarter << 30), quarter & 1 == 1);
    let left = turn >> 31;
    // Of an eighth of a turn, x and x², of 2³¹.
    let x = (turn ^ left.wrapping_neg()).wrapping_add(left) << 2;
    let square = (high(x, x) << 1) | (x.wrapping_mul(x) >> 31);
    // sin / x, or (1 − cos) / x², of 2³².
    let term = |of_sine: u32, of_cosine: u32| if sine { of_sine } else { of_cosine };
    let mut series = term(1_327, 104);
    series = term(157_077, 15_422) - (high(series, square) << 1);
    series = term(10_696_157, 1_400_124) - (high(series, square) << 1);
    series = term(346_799_333, 68_093_890) - (high(series, square) << 1);
    series = term(3_373_259_426, 1_324_675_879) - (high(series, square) << 1);
    let up = if sine { (x | 1).leading_zeros() } else { 0 };
    let size = if sine { high(x << up, series) } else { (1 << 31) - high(series, square) };
    let lead = (size | 1).leading_zeros();
    let minus = if sine { (quarter >> 1) ^ left ^ 1 } else { quarter >> 1 };
    (minus, if sine && x == 0 { 0 } else { size << lead }, 1 - (up + lead) as i32)
}

/// The normal number of two random words; rounded to nearest, ties to even.
#[inline(always)]
pub fn normal(words: [u32; 2]) -> f32 {
    let (m, n) = logarithm(words[0]);
    // √(2 ln …): an even power of two, and the root of what is in [1/4, 1).
    let odd = (n + 1) & 1;
    let radius = root(m >> odd);
    let lead = radius.leading_zeros();
    let (minus, size, power) = cosine(words[1]);
    let product = high(radius << lead, size);
    let up = (product | 1).leading_zeros();
    let m = product << up;
    let tie = (m >> 8) & 1;
    let rounded = (m >> 8) + ((m >> 7) & (u32::from(m & 0x7f != 0) | tie) & 1);
    let exponent = ((n + 1 + odd) >> 1) + 1 - (lead + up) as i32 + power;
    // The top bit of what was rounded adds one to the exponent.
    let bits = (((exponent + 125) as u32) << 23).wrapping_add(rounded);
    let zero = words[0] == u32::MAX || product == 0;
    f32::from_bits(if zero { 0 } else { bits | (minus << 31) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In float64, with care where a difference would lose digits.
    fn reference([w0, w1]: [u32; 2]) -> f64 {
        let whole = 4_294_967_296.0;
        let missing = f64::from(!w0) / whole;
        let logarithm = if w0 >> 31 == 1 { (-missing).ln_1p() } else { ((f64::from(w0) + 1.0) / whole).ln() };
        let quarter = w1.wrapping_add(1 << 29) >> 30;
        let angle = f64::from(w1.wrapping_sub(quarter << 30) as i32) / whole * std::f64::consts::TAU;
        let cosine = [angle.cos(), -angle.sin(), -angle.cos(), angle.sin()][quarter as usize];
        (-2.0 * logarithm).sqrt() * cosine
    }

    #[test]
    fn numbers_are_those_of_float64_but_for_the_last_place() {
        let stream = crate::device::cpu::random::Stream { key: 5, offset: 0 };
        let mut worst = 0.0f64;
        let mut check = |words: [u32; 2]| {
            let (got, want) = (normal(words), reference(words));
            let next = f32::from_bits((want.abs() as f32).to_bits() + 1);
            let unit = f64::from(next) - f64::from(want.abs() as f32);
            worst = worst.max((f64::from(got) - want).abs() / unit);
        };
        for i in 0..400_000 {
            let ([a, b], how) = ([stream.bits(3 * i), stream.bits(3 * i + 1)], stream.bits(3 * i + 2));
            // Tails, what is next to 1, and what is next to quarter turns too.
            let [a, b] = match how % 6 {
                0 => [a >> (how / 8 % 32), b],
                1 => [!(a >> (how / 8 % 32)), b],
                2 => [a, (b >> (how / 8 % 32)).wrapping_add((how >> 30) << 30)],
                3 => [a, ((how >> 30) << 30).wrapping_sub(b >> (how / 8 % 32))],
                _ => [a, b],
            };
            check([a, b]);
        }
        for a in [0, 1, 2, u32::MAX - 1, u32::MAX - 2, 0x7fff_ffff, 0x8000_0000, 0xbfff_fffe, 0xbfff_ffff] {
            for turn in 0..8u32 {
                for near in 0..3 {
                    check([a, (turn << 29).wrapping_add(near).wrapping_sub(1)]);
                }
            }
        }
        assert!(worst < 0.54, "{worst} units in the last place");
        assert_eq!([normal([u32::MAX, 0]), normal([7, 1 << 30]), normal([7, 3 << 30])], [0.0; 3]);
    }

    #[test]
    fn moments_are_those_of_the_normal_distribution() {
        let stream = crate::device::cpu::random::Stream { key: 9, offset: 0 };
        let n = 1 << 18;
        let mut out = vec![0.0; n];
        crate::device::cpu::random::normal(&mut out, stream);
        let mean = |power: i32| out.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / n as f64;
        // Five standard deviations of each.
        for (power, want, spread) in [(1, 0.0, 1.0), (2, 1.0, 2.0f64), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            assert!((mean(power) - want).abs() < 5.0 * (spread / n as f64).sqrt(), "power {power}: {}", mean(power));
        }
    }
}
