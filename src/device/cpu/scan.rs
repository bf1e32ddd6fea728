//! Running totals along an axis: sums, products, and first-order linear recurrences. Totals are kept in the wide type.

use super::fold::Number;
use super::parts::Parts;
use super::pool;
use crate::real::Real;

/// A step from the total so far to the next.
pub trait Step: Sync {
    /// `b` is absent (0) where the caller gives none.
    fn next<R: Real>(total: R, a: R, b: R) -> R;
    const START: f64;
}

/// a₀ + a₁ + … + aₖ
pub struct Sum;
impl Step for Sum {
    const START: f64 = 0.0;
    #[inline(always)]
    fn next<R: Real>(total: R, a: R, _b: R) -> R {
        total + a
    }
}

/// a₀ · a₁ · … · aₖ
pub struct Product;
impl Step for Product {
    const START: f64 = 1.0;
    #[inline(always)]
    fn next<R: Real>(total: R, a: R, _b: R) -> R {
        total * a
    }
}

/// yₖ = aₖ + bₖ · yₖ₋₁
pub struct Linear;
impl Step for Linear {
    const START: f64 = 0.0;
    #[inline(always)]
    fn next<R: Real>(total: R, a: R, b: R) -> R {
        a + b * total
    }
}

const TILE: usize = 64;

/// y from a and b, all [outer, n, inner], along the middle axis. In reverse the axis is walked from its end, and the
/// factor of a step is the `b` of the place it comes from: yₖ = aₖ + bₖ₊₁ · yₖ₊₁.
pub fn along<S: Step, E: Number>(a: &[E], b: Option<&[E]>, y: &mut [E], [outer, n, inner]: [usize; 3], reverse: bool) {
    assert!(
        a.len() == outer * n * inner && y.len() == a.len() && b.is_none_or(|b| b.len() == a.len()),
        "bug: sizes of a scan"
    );
    if y.is_empty() {
        return;
    }
    let y = Parts::new(y);
    if inner == 1 {
        return rows::<S, E>(a, b, y, n, reverse);
    }
    let tiles = inner.div_ceil(TILE);
    let step = pool::chunk_rows(outer * tiles, (n * inner.min(TILE)) as f64);
    pool::run((outer * tiles).div_ceil(step), &|chunk| {
        for unit in chunk * step..((chunk + 1) * step).min(outer * tiles) {
            let (row, from) = (unit / tiles * n, unit % tiles * TILE);
            let width = TILE.min(inner - from);
            let mut totals = [E::Wide::lit(S::START); TILE];
            for k in 0..n {
                let k = if reverse { n - 1 - k } else { k };
                let at = (row + k) * inner + from;
                // The factors of the place before, or none at the first step in reverse.
                let b = match b {
                    Some(b) if !reverse => Some(&b[at..at + width]),
                    Some(b) if k + 1 < n => Some(&b[at + inner..at + inner + width]),
                    _ => None,
                };
                // SAFETY: each row's tile of columns is in one chunk.
                let y = unsafe { y.part(at, width) };
                for j in 0..width {
                    let factor = b.map_or(E::Wide::lit(0.0), |b| b[j].widen());
                    totals[j] = S::next(totals[j], a[at + j].widen(), factor);
                    y[j] = E::narrow(totals[j]);
                }
            }
        }
    });
}

/// Lines that lie side by side in memory are walked together: their totals do not wait for each other.
const TOGETHER: usize = 4;

/// a, b and y [outer, n], along the last axis.
fn rows<S: Step, E: Number>(a: &[E], b: Option<&[E]>, y: Parts<E>, n: usize, reverse: bool) {
    let outer = a.len() / n;
    let bundles = outer.div_ceil(TOGETHER);
    let step = pool::chunk_rows(bundles, (n * TOGETHER) as f64 * 0.5);
    pool::run(bundles.div_ceil(step), &|chunk| {
        for bundle in chunk * step..((chunk + 1) * step).min(bundles) {
            let (first, lines) = (bundle * TOGETHER, TOGETHER.min(outer - bundle * TOGETHER));
            // SAFETY: each line is in one bundle, and each bundle in one chunk.
            let y = unsafe { y.part(first * n, lines * n) };
            let (a, b) = (&a[first * n..(first + lines) * n], b.map(|b| &b[first * n..(first + lines) * n]));
            if lines == TOGETHER {
                walk::<S, E, TOGETHER>(a, b, y, n, reverse);
            } else {
                for line in 0..lines {
                    let range = line * n..(line + 1) * n;
                    walk::<S, E, 1>(&a[range.clone()], b.map(|b| &b[range.clone()]), &mut y[range.clone()], n, reverse);
                }
            }
        }
    });
}

/// a, b and y [L, n].
#[inline(always)]
fn walk<S: Step, E: Number, const L: usize>(a: &[E], b: Option<&[E]>, y: &mut [E], n: usize, reverse: bool) {
    assert!(a.len() == L * n && y.len() == L * n && b.is_none_or(|b| b.len() == L * n), "bug: lines of a scan");
    let mut totals = [E::Wide::lit(S::START); L];
    for k in 0..n {
        let k = if reverse { n - 1 - k } else { k };
        let from = if reverse { k + 1 } else { k };
        for (line, total) in totals.iter_mut().enumerate() {
            let factor = match b {
                Some(b) if from < n => b[line * n + from].widen(),
                _ => E::Wide::lit(0.0),
            };
            *total = S::next(*total, a[line * n + k].widen(), factor);
            y[line * n + k] = E::narrow(*total);
        }
    }
}
