//! Kernels that take a row at a time: softmax, layer norm, cross-entropy, and their ways back.
//!
//! Rows are contiguous. Sums over a row are gathered in lanes and joined in f64; chunks of rows are a function of the shape.

use super::parts::Parts;
use super::pool;
use super::simd::{Kernel, Lanes, dispatch_f32};
use crate::dtype::Element;

/// The types that rows are computed in.
pub trait Float: Element + Into<f64> + PartialOrd {
    fn from_f64(x: f64) -> Self;
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Out;
}

impl Float for f32 {
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    fn dispatch<K: Kernel<f32>>(kernel: K) -> K::Out {
        dispatch_f32(kernel)
    }
}

impl Float for f64 {
    fn from_f64(x: f64) -> f64 {
        x
    }
    fn dispatch<K: Kernel<f64>>(kernel: K) -> K::Out {
        kernel.run::<f64>()
    }
}

/// Runs `work` on chunks of rows, in parallel when they are worth it.
fn chunks(rows: usize, columns: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
    let step = pool::chunk_rows(rows, columns as f64 * 1.0 + 5.0).max(1);
    pool::run(rows.div_ceil(step), &|c| work(c * step..((c + 1) * step).min(rows)));
}

/// `n` lanes from memory, or all; 0 in the rest.
///
/// # Safety
/// `p` is valid for reads of `n` elements, or of a register.
#[inline(always)]
unsafe fn load<L: Lanes>(p: *const L::Elem, n: usize) -> L {
    // SAFETY: the caller's promise.
    unsafe { if n < L::WIDTH { L::load_first(p, n) } else { L::load(p) } }
}

/// # Safety
/// `p` is valid for writes of `n` elements, or of a register.
#[inline(always)]
unsafe fn store<L: Lanes>(x: L, p: *mut L::Elem, n: usize) {
    // SAFETY: the caller's promise.
    unsafe { if n < L::WIDTH { x.store_first(p, n) } else { x.store(p) } }
}

/// The first `n` lanes, or all; 0 in the rest.
#[inline(always)]
fn first<L: Lanes>(x: L, n: usize) -> L {
    if n < L::WIDTH { L::select(L::bits_mask((1 << n) - 1), x, L::lit(0.0)) } else { x }
}

// Macros, because a closure over lanes is not inlined for certain, and one that is not runs without the instructions of
// its level, 40 times slower.

/// Runs `$work` for each register of a row: `$n` elements from `$i` on.
macro_rules! registers {
    ($lanes:ident, $len:expr, |$i:ident, $n:ident| $work:expr) => {{
        let len = $len;
        let mut $i = 0;
        while $i < len {
            let $n = len - $i;
            $work;
            $i += $lanes::WIDTH;
        }
    }};
}

/// Joins what `$term` says of each register, in `$chains` chains so that none waits for the one before. Whole registers need
/// no masks, nor a look at `$n`.
macro_rules! joined {
    ($lanes:ident, $len:expr, $chains:literal, $start:expr, $join:path, |$i:ident, $n:ident| $term:expr) => {{
        let len = $len;
        let mut chains = [$start; $chains];
        let mut at = 0;
        while at + $chains * $lanes::WIDTH <= len {
            for u in 0..$chains {
                let ($i, $n) = (at + u * $lanes::WIDTH, $lanes::WIDTH);
                chains[u] = $join(chains[u], $term);
            }
            at += $chains * $lanes::WIDTH;
        }
        for u in 0..$chains {
            let $i = at + u * $lanes::WIDTH;
            if $i < len {
                let $n = len - $i;
                chains[u] = $join(chains[u], $term);
            }
        }
        let mut all = chains[0];
        for u in 1..$chains {
            all = $join(all, chains[u]);
        }
        all
    }};
}

/// The sums over a row of the `$count` things that `$term` says of each register; lanes that are not there must be 0.
macro_rules! sums {
    ($lanes:ident, $len:expr, $count:literal in $chains:literal chains, |$i:ident, $n:ident| $term:expr) => {
        totals(joined!($lanes, $len, $chains, [$lanes::lit(0.0); $count], add, |$i, $n| $term))
    };
}

/// y_i = f(x_i, z_i) over a row.
macro_rules! map {
    ($lanes:ident, $y:expr, [$x:expr, $z:expr], |$a:ident, $b:ident| $f:expr) => {{
        let (x, z, y) = ($x.as_ptr(), $z.as_ptr(), $y.as_mut_ptr());
        // SAFETY: n elements are left, in all three.
        registers!($lanes, $y.len(), |i, n| unsafe {
            let ($a, $b): ($lanes, $lanes) = (load(x.add(i), n), load(z.add(i), n));
            store($f, y.add(i), n);
        });
    }};
}

#[inline(always)]
fn add<L: Lanes, const N: usize>(mut a: [L; N], b: [L; N]) -> [L; N] {
    for k in 0..N {
        a[k] = a[k] + b[k];
    }
    a
}

/// The sums of the lanes of each.
#[inline(always)]
fn totals<L: Lanes, const N: usize>(lanes: [L; N]) -> [f64; N]
where
    L::Elem: Float,
{
    let mut sums = [0.0; N];
    for k in 0..N {
        sums[k] = lanes[k].sum_lanes().into();
    }
    sums
}

/// The largest element; NaN wins.
#[inline(always)]
fn largest<L: Lanes>(x: &[L::Elem]) -> f64
where
    L::Elem: Float,
{
    let low = L::lit(f64::NEG_INFINITY);
    let best = joined!(L, x.len(), 4, low, L::max, |i, n| {
        // SAFETY: n elements are left.
        let v = unsafe { load::<L>(x.as_ptr().add(i), n) };
        if n < L::WIDTH { L::select(L::bits_mask((1 << n) - 1), v, low) } else { v }
    });
    best.max_lanes().into()
}

/// Σ exp(x_i - shift); `keep` receives the terms, unless it is null.
///
/// # Safety
/// `keep` is null or valid for writes of as many elements as x has.
#[inline(always)]
unsafe fn sum_of_exp<L: Lanes>(x: &[L::Elem], shift: f64, keep: *mut L::Elem) -> f64
where
    L::Elem: Float,
{
    let shift = L::lit(shift);
    let mut sum = L::lit(0.0);
    // SAFETY: n elements are left, in both.
    registers!(L, x.len(), |i, n| unsafe {
        let e = (load::<L>(x.as_ptr().add(i), n) - shift).exp();
        if !keep.is_null() {
            store(e, keep.add(i), n);
        }
        sum = sum + first(e, n);
    });
    sum.sum_lanes().into()
}

struct Softmax<'a, E> {
    x: &'a [E],
    y: &'a mut [E],
    columns: usize,
    log: bool,
}

impl<E: Float> Kernel<E> for Softmax<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        for (x, y) in self.x.chunks(self.columns).zip(self.y.chunks_mut(self.columns)) {
            let top = largest::<L>(x);
            if self.log {
                // SAFETY: nothing is kept.
                let log_sum = unsafe { sum_of_exp::<L>(x, top, std::ptr::null_mut()) }.ln();
                // One after the other: beside a huge top their sum would lose the logarithm.
                map!(L, y, [x, x], |a, _b| a - top - log_sum);
            } else {
                // SAFETY: y is as long as x.
                let scale = 1.0 / unsafe { sum_of_exp::<L>(x, top, y.as_mut_ptr()) };
                // SAFETY: n elements are left.
                registers!(L, y.len(), |i, n| unsafe {
                    let y = y.as_mut_ptr().add(i);
                    store(load::<L>(y, n) * scale, y, n);
                });
            }
        }
    }
}

/// y = softmax(x), or its logarithm, along rows of `columns`.
pub fn softmax<E: Float>(x: &[E], y: &mut [E], columns: usize, log: bool) {
    if columns == 0 {
        return;
    }
    assert!(x.len() == y.len() && x.len().is_multiple_of(columns), "bug: softmax on buffers of other sizes");
    let (rows, out) = (x.len() / columns, Parts::new(y));
    chunks(rows, columns * 3, |r| {
        // SAFETY: each chunk takes rows of its own.
        let y = unsafe { out.part(r.start * columns, r.len() * columns) };
        E::dispatch(Softmax { x: &x[r.start * columns..r.end * columns], y, columns, log });
    });
}

struct SoftmaxBack<'a, E> {
    y: &'a [E],
    dy: &'a [E],
    dx: &'a mut [E],
    columns: usize,
    log: bool,
}

impl<E: Float> Kernel<E> for SoftmaxBack<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let rows = self.y.chunks(self.columns).zip(self.dy.chunks(self.columns)).zip(self.dx.chunks_mut(self.columns));
        for ((y, dy), dx) in rows {
            if self.log {
                // SAFETY: n elements are left.
                let [total] = sums!(L, dy.len(), 1 in 4 chains, |i, n| unsafe { [load(dy.as_ptr().add(i), n)] });
                map!(L, dx, [y, dy], |y, dy| dy - y.exp() * total);
            } else {
                // SAFETY: n elements are left, in both.
                let [total] = sums!(L, dy.len(), 1 in 4 chains, |i, n| unsafe {
                    [load::<L>(y.as_ptr().add(i), n) * load::<L>(dy.as_ptr().add(i), n)]
                });
                map!(L, dx, [y, dy], |y, dy| y * (dy - total));
            }
        }
    }
}

/// dx from y = softmax(x) (or its logarithm) and dy.
pub fn softmax_back<E: Float>(y: &[E], dy: &[E], dx: &mut [E], columns: usize, log: bool) {
    if columns == 0 {
        return;
    }
    assert!(y.len() == dy.len() && y.len() == dx.len(), "bug: softmax on buffers of other sizes");
    let (rows, out) = (y.len() / columns, Parts::new(dx));
    chunks(rows, columns * 2, |r| {
        let range = r.start * columns..r.end * columns;
        // SAFETY: each chunk takes rows of its own.
        let dx = unsafe { out.part(range.start, range.len()) };
        E::dispatch(SoftmaxBack { y: &y[range.clone()], dy: &dy[range], dx, columns, log });
    });
}

struct Norm<'a, E> {
    x: &'a [E],
    weight: Option<&'a [E]>,
    bias: Option<&'a [E]>,
    y: &'a mut [E],
    stats: &'a mut [E],
    columns: usize,
    eps: f64,
}

impl<E: Float> Kernel<E> for Norm<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let rows = self.x.chunks(self.columns).zip(self.y.chunks_mut(self.columns)).zip(self.stats.chunks_mut(2));
        for ((x, y), stats) in rows {
            let count = self.columns as f64;
            // SAFETY: n elements are left.
            let [sum] = sums!(L, x.len(), 1 in 4 chains, |i, n| unsafe { [load(x.as_ptr().add(i), n)] });
            let mean = sum / count;
            // SAFETY: as above.
            let [spread] = sums!(L, x.len(), 1 in 4 chains, |i, n| unsafe {
                [first((load::<L>(x.as_ptr().add(i), n) - mean).square(), n)]
            });
            let rstd = 1.0 / (spread / count + self.eps).sqrt();
            (stats[0], stats[1]) = (E::from_f64(mean), E::from_f64(rstd));
            // SAFETY: n elements are left, in all.
            registers!(L, y.len(), |i, n| unsafe {
                let mut v = (load::<L>(x.as_ptr().add(i), n) - mean) * rstd;
                if let Some(weight) = self.weight {
                    v = v * load::<L>(weight.as_ptr().add(i), n);
                }
                if let Some(bias) = self.bias {
                    v = v + load::<L>(bias.as_ptr().add(i), n);
                }
                store(v, y.as_mut_ptr().add(i), n);
            });
        }
    }
}

/// y = (x - mean) · rstd · weight + bias along rows; `stats` receives mean and rstd of each row.
pub fn layer_norm<E: Float>(x: &[E], weight: Option<&[E]>, bias: Option<&[E]>, y: &mut [E], stats: &mut [E], eps: f64) {
    let rows = stats.len() / 2;
    if rows == 0 || x.is_empty() {
        return;
    }
    let columns = x.len() / rows;
    assert!(x.len() == y.len() && x.len() == rows * columns, "bug: layer_norm on buffers of other sizes");
    let (out, stats) = (Parts::new(y), Parts::new(stats));
    chunks(rows, columns * 2, |r| {
        // SAFETY: each chunk takes rows of its own.
        let (y, stats) =
            unsafe { (out.part(r.start * columns, r.len() * columns), stats.part(r.start * 2, r.len() * 2)) };
        E::dispatch(Norm { x: &x[r.start * columns..r.end * columns], weight, bias, y, stats, columns, eps });
    });
}

struct NormBack<'a, E> {
    x: &'a [E],
    weight: Option<&'a [E]>,
    stats: &'a [E],
    dy: &'a [E],
    dx: &'a mut [E],
    /// dweight, then dbias: the sums of this chunk.
    sums: &'a mut [E],
    columns: usize,
}

impl<E: Float> Kernel<E> for NormBack<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let n = self.columns;
        self.sums.fill(E::from_f64(0.0));
        let (dweight, dbias) = self.sums.split_at_mut(n);
        let rows = self.x.chunks(n).zip(self.dy.chunks(n)).zip(self.dx.chunks_mut(n)).zip(self.stats.chunks(2));
        for (((x, dy), dx), stats) in rows {
            let (mean, rstd): (f64, f64) = (stats[0].into(), stats[1].into());
            // SAFETY: n elements are left, in all.
            let [sum, along] = sums!(L, n, 2 in 2 chains, |i, n| unsafe {
                let apart = load::<L>(x.as_ptr().add(i), n) - mean;
                let dy = load::<L>(dy.as_ptr().add(i), n);
                let (dweight, dbias) = (dweight.as_mut_ptr().add(i), dbias.as_mut_ptr().add(i));
                store(load::<L>(dweight, n) + dy * (apart * rstd), dweight, n);
                store(load::<L>(dbias, n) + dy, dbias, n);
                let g = weighted(dy, self.weight, i, n);
                [g, g * apart]
            });
            let (sum, along) = (sum / n as f64, along * rstd / n as f64);
            // SAFETY: as above.
            registers!(L, n, |i, n| unsafe {
                let apart = load::<L>(x.as_ptr().add(i), n) - mean;
                let g = weighted(load::<L>(dy.as_ptr().add(i), n), self.weight, i, n);
                store((g - sum - apart * (rstd * along)) * rstd, dx.as_mut_ptr().add(i), n);
            });
        }
    }
}

/// dy · weight, at the register from i on.
///
/// # Safety
/// n elements are left in the weight, or a register.
#[inline(always)]
unsafe fn weighted<L: Lanes>(dy: L, weight: Option<&[L::Elem]>, i: usize, n: usize) -> L {
    match weight {
        // SAFETY: the caller's promise.
        Some(weight) => dy * unsafe { load::<L>(weight.as_ptr().add(i), n) },
        None => dy,
    }
}

/// Chunks of rows whose sums are joined in order; a function of the shape.
pub fn norm_chunks(rows: usize) -> usize {
    rows.div_ceil(64).clamp(1, 32)
}

/// dx, and into `sums` (2 · columns a chunk, `norm_chunks` of them) dweight and dbias, added up in the first chunk.
pub fn layer_norm_back<E: Float>(x: &[E], weight: Option<&[E]>, stats: &[E], dy: &[E], dx: &mut [E], sums: &mut [E]) {
    let rows = stats.len() / 2;
    if rows == 0 || x.is_empty() {
        sums.fill(E::from_f64(0.0));
        return;
    }
    let columns = x.len() / rows;
    let count = norm_chunks(rows);
    let step = rows.div_ceil(count);
    assert!(sums.len() == 2 * columns * count && x.len() == dx.len() && x.len() == dy.len(), "bug: layer_norm sizes");
    let (out, parts) = (Parts::new(dx), Parts::new(sums));
    pool::run(count, &|c| {
        let rows = (c * step).min(rows)..((c + 1) * step).min(rows);
        let range = rows.start * columns..rows.end * columns;
        // SAFETY: each chunk takes rows and sums of its own.
        let (dx, sums) = unsafe { (out.part(range.start, range.len()), parts.part(c * 2 * columns, 2 * columns)) };
        let stats = &stats[rows.start * 2..rows.end * 2];
        E::dispatch(NormBack { x: &x[range.clone()], weight, stats, dy: &dy[range], dx, sums, columns });
    });
    let (first, rest) = sums.split_at_mut(2 * columns);
    for part in rest.chunks(2 * columns) {
        first.iter_mut().zip(part).for_each(|(a, &b)| *a = E::from_f64((*a).into() + b.into()));
    }
}

/// How cross-entropy treats a row.
#[derive(Clone, Copy, Debug)]
pub struct Entropy {
    pub ignore: i64,
    pub smoothing: f64,
}

#[inline(always)]
fn log_sum_exp<E: Float, L: Lanes<Elem = E>>(x: &[E]) -> f64 {
    let top = largest::<L>(x);
    // SAFETY: nothing is kept.
    top + unsafe { sum_of_exp::<L>(x, top, std::ptr::null_mut()) }.ln()
}

struct EntropyRows<'a, E> {
    x: &'a [E],
    target: &'a [i64],
    weight: Option<&'a [E]>,
    loss: &'a mut [E],
    lse: &'a mut [E],
    columns: usize,
    how: Entropy,
}

impl<E: Float> Kernel<E> for EntropyRows<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let n = self.columns;
        let rows = self.x.chunks(n).zip(self.target).zip(self.loss.iter_mut().zip(self.lse.iter_mut()));
        for ((x, &t), (loss, lse)) in rows {
            let log_sum = log_sum_exp::<E, L>(x);
            *lse = E::from_f64(log_sum);
            *loss = E::from_f64(if t == self.how.ignore {
                0.0
            } else {
                let of = |j: usize| self.weight.map_or(1.0, |w| w[j].into());
                let own = of(t as usize) * (log_sum - x[t as usize].into());
                let smooth = if self.how.smoothing == 0.0 {
                    0.0
                } else {
                    x.iter().enumerate().map(|(j, &v)| of(j) * (log_sum - v.into())).sum::<f64>() / n as f64
                };
                (1.0 - self.how.smoothing) * own + self.how.smoothing * smooth
            });
        }
    }
}

/// Loss and log-sum-exp of each row. Targets were checked to lie in 0..columns, or to be `ignore`.
pub fn cross_entropy<E: Float>(
    x: &[E],
    target: &[i64],
    weight: Option<&[E]>,
    how: Entropy,
    loss: &mut [E],
    lse: &mut [E],
) {
    let rows = target.len();
    if rows == 0 {
        return;
    }
    let columns = x.len() / rows;
    let (loss, lse) = (Parts::new(loss), Parts::new(lse));
    chunks(rows, columns * 2, |r| {
        // SAFETY: each chunk takes rows of its own.
        let (loss, lse) = unsafe { (loss.part(r.start, r.len()), lse.part(r.start, r.len())) };
        let x = &x[r.start * columns..r.end * columns];
        E::dispatch(EntropyRows { x, target: &target[r], weight, loss, lse, columns, how });
    });
}

struct EntropyBack<'a, E> {
    x: &'a [E],
    target: &'a [i64],
    weight: Option<&'a [E]>,
    lse: Option<&'a [E]>,
    dloss: &'a [E],
    dx: &'a mut [E],
    columns: usize,
    how: Entropy,
}

impl<E: Float> Kernel<E> for EntropyBack<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let n = self.columns;
        let rows = self.x.chunks(n).zip(self.dx.chunks_mut(n)).enumerate();
        for (i, (x, dx)) in rows {
            let (t, dy) = (self.target[i], self.dloss[i].into());
            if t == self.how.ignore || dy == 0.0 {
                dx.fill(E::from_f64(0.0));
                continue;
            }
            let t = t as usize;
            let lse: f64 = self.lse.map_or_else(|| E::from_f64(log_sum_exp::<E, L>(x)), |lse| lse[i]).into();
            let (s, of) = (self.how.smoothing, |j: usize| self.weight.map_or(1.0, |w| w[j].into()));
            let smooth = s / n as f64;
            // d/dx_j = softmax_j · (Σ of the weights in play) - (the weight of j)
            let all = if s == 0.0 { 0.0 } else { smooth * (0..n).map(of).sum::<f64>() };
            let scale = dy * ((1.0 - s) * of(t) + all);
            map!(L, dx, [x, x], |a, _b| (a - lse).exp() * scale);
            if s != 0.0 {
                dx.iter_mut().enumerate().for_each(|(j, v)| *v = E::from_f64((*v).into() - dy * smooth * of(j)));
            }
            dx[t] = E::from_f64(dx[t].into() - dy * (1.0 - s) * of(t));
        }
    }
}

/// dlogits from the gradient of each row's loss.
#[allow(clippy::too_many_arguments)]
pub fn cross_entropy_back<E: Float>(
    x: &[E],
    target: &[i64],
    weight: Option<&[E]>,
    lse: Option<&[E]>,
    dloss: &[E],
    how: Entropy,
    dx: &mut [E],
) {
    let rows = target.len();
    if rows == 0 {
        return;
    }
    let columns = x.len() / rows;
    let out = Parts::new(dx);
    chunks(rows, columns * 2, |r| {
        let range = r.start * columns..r.end * columns;
        // SAFETY: each chunk takes rows of its own.
        let dx = unsafe { out.part(range.start, range.len()) };
        let (target, lse, dloss) = (&target[r.clone()], lse.map(|lse| &lse[r.clone()]), &dloss[r]);
        E::dispatch(EntropyBack { x: &x[range], target, weight, lse, dloss, dx, columns, how });
    });
}
