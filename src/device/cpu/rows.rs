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

/// The largest element; NaN wins.
#[inline(always)]
fn largest<L: Lanes>(x: &[L::Elem]) -> f64
where
    L::Elem: Float,
{
    let mut best = L::lit(f64::NEG_INFINITY);
    let whole = x.len() / L::WIDTH * L::WIDTH;
    let mut i = 0;
    while i < whole {
        // SAFETY: WIDTH elements from i on.
        best = best.max(unsafe { L::load(x.as_ptr().add(i)) });
        i += L::WIDTH;
    }
    for &v in &x[whole..] {
        best = best.max(L::splat(v));
    }
    best.max_lanes().into()
}

/// Σ f(x_i) with f evaluated in lanes; `keep` receives the values.
#[inline(always)]
fn sum_of_exp<L: Lanes>(x: &[L::Elem], shift: L, mut keep: Option<&mut [L::Elem]>) -> f64
where
    L::Elem: Float,
{
    let mut total = L::lit(0.0);
    let whole = x.len() / L::WIDTH * L::WIDTH;
    let mut i = 0;
    while i < whole {
        // SAFETY: WIDTH elements from i on, in both.
        unsafe {
            let e = (L::load(x.as_ptr().add(i)) - shift).exp();
            total = total + e;
            if let Some(keep) = &mut keep {
                e.store(keep.as_mut_ptr().add(i));
            }
        }
        i += L::WIDTH;
    }
    let mut rest = 0.0;
    let mut last = [L::Elem::from_f64(0.0); 16];
    if whole < x.len() {
        let n = x.len() - whole;
        // SAFETY: n elements are left, fewer than WIDTH, which is at most 16.
        unsafe { (L::load_first(x.as_ptr().add(whole), n) - shift).exp().store_first(last.as_mut_ptr(), n) };
        if let Some(keep) = &mut keep {
            keep[whole..].copy_from_slice(&last[..n]);
        }
        rest = last[..n].iter().map(|&v| v.into()).sum();
    }
    let lanes: f64 = total.sum_lanes().into();
    lanes + rest
}

/// y_i = f(x_i, z_i) over a row.
#[inline(always)]
fn map<L: Lanes>(x: &[L::Elem], z: &[L::Elem], y: &mut [L::Elem], f: impl Fn(L, L) -> L)
where
    L::Elem: Float,
{
    let whole = y.len() / L::WIDTH * L::WIDTH;
    let mut i = 0;
    while i < whole {
        // SAFETY: WIDTH elements from i on, in all three.
        unsafe { f(L::load(x.as_ptr().add(i)), L::load(z.as_ptr().add(i))).store(y.as_mut_ptr().add(i)) };
        i += L::WIDTH;
    }
    if whole < y.len() {
        let n = y.len() - whole;
        // SAFETY: n elements are left, fewer than WIDTH.
        unsafe {
            let (x, z) = (L::load_first(x.as_ptr().add(whole), n), L::load_first(z.as_ptr().add(whole), n));
            f(x, z).store_first(y.as_mut_ptr().add(whole), n);
        }
    }
}

/// Σ f(x_i, z_i) over a row; f must give 0 at (0, 0).
#[inline(always)]
fn dot<L: Lanes>(x: &[L::Elem], z: &[L::Elem], f: impl Fn(L, L) -> L) -> f64
where
    L::Elem: Float,
{
    let mut total = L::lit(0.0);
    let whole = x.len() / L::WIDTH * L::WIDTH;
    let mut i = 0;
    while i < whole {
        // SAFETY: WIDTH elements from i on, in both.
        total = total + unsafe { f(L::load(x.as_ptr().add(i)), L::load(z.as_ptr().add(i))) };
        i += L::WIDTH;
    }
    let mut rest = 0.0;
    if whole < x.len() {
        let n = x.len() - whole;
        let mut last = [L::Elem::from_f64(0.0); 16];
        // SAFETY: n elements are left, fewer than WIDTH, which is at most 16.
        unsafe {
            let v = f(L::load_first(x.as_ptr().add(whole), n), L::load_first(z.as_ptr().add(whole), n));
            v.store_first(last.as_mut_ptr(), n);
        }
        rest = last[..n].iter().map(|&v| v.into()).sum();
    }
    let lanes: f64 = total.sum_lanes().into();
    lanes + rest
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
                let lse = top + sum_of_exp::<L>(x, L::lit(top), None).ln();
                map::<L>(x, x, y, |x, _| x - lse);
            } else {
                let total = sum_of_exp::<L>(x, L::lit(top), Some(y));
                let scale = 1.0 / total;
                change::<L>(y, x, |y, _| y * scale);
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
                let total = dot::<L>(dy, dy, |a, _| a);
                map::<L>(y, dy, dx, |y, dy| dy - y.exp() * total);
            } else {
                let total = dot::<L>(y, dy, |y, dy| y * dy);
                map::<L>(y, dy, dx, |y, dy| y * (dy - total));
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
            let n = self.columns as f64;
            let mean = dot::<L>(x, x, |x, _| x) / n;
            let variance = spread::<L>(x, mean) / n;
            let rstd = 1.0 / (variance + self.eps).sqrt();
            (stats[0], stats[1]) = (E::from_f64(mean), E::from_f64(rstd));
            map::<L>(x, x, y, |x, _| (x - mean) * rstd);
            if let Some(weight) = self.weight {
                change::<L>(y, weight, |y, w| y * w);
            }
            if let Some(bias) = self.bias {
                change::<L>(y, bias, |y, b| y + b);
            }
        }
    }
}

/// Σ (x_i - mean)²
#[inline(always)]
fn spread<L: Lanes>(x: &[L::Elem], mean: f64) -> f64
where
    L::Elem: Float,
{
    let whole = x.len() / L::WIDTH * L::WIDTH;
    let body = dot::<L>(&x[..whole], &x[..whole], |x, _| (x - mean).square());
    let rest: f64 = x[whole..].iter().map(|&v| (v.into() - mean) * (v.into() - mean)).sum();
    body + rest
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
            // dx holds g = dy · weight for a moment.
            match self.weight {
                Some(weight) => map::<L>(dy, weight, dx, |dy, w| dy * w),
                None => dx.copy_from_slice(dy),
            }
            let sum = dot::<L>(dx, dx, |g, _| g) / n as f64;
            let along = dot::<L>(dx, x, |g, x| g * (x - mean)) * rstd / n as f64;
            change::<L>(dx, x, |g, x| (g - sum - (x - mean) * (rstd * along)) * rstd);
            accumulate::<L>(dy, x, dweight, |dy, x| dy * ((x - mean) * rstd));
            accumulate::<L>(dy, x, dbias, |dy, _| dy);
        }
    }
}

/// y_i = f(y_i, z_i)
#[inline(always)]
fn change<L: Lanes>(y: &mut [L::Elem], z: &[L::Elem], f: impl Fn(L, L) -> L)
where
    L::Elem: Float,
{
    let whole = y.len() / L::WIDTH * L::WIDTH;
    let mut i = 0;
    while i < whole {
        // SAFETY: WIDTH elements from i on, in both.
        unsafe {
            let at = y.as_mut_ptr().add(i);
            f(L::load(at), L::load(z.as_ptr().add(i))).store(at);
        }
        i += L::WIDTH;
    }
    if whole < y.len() {
        let n = y.len() - whole;
        // SAFETY: n elements are left, fewer than WIDTH.
        unsafe {
            let at = y.as_mut_ptr().add(whole);
            f(L::load_first(at, n), L::load_first(z.as_ptr().add(whole), n)).store_first(at, n);
        }
    }
}

/// y_i += f(x_i, z_i)
#[inline(always)]
fn accumulate<L: Lanes>(x: &[L::Elem], z: &[L::Elem], y: &mut [L::Elem], f: impl Fn(L, L) -> L)
where
    L::Elem: Float,
{
    let whole = y.len() / L::WIDTH * L::WIDTH;
    let mut i = 0;
    while i < whole {
        // SAFETY: WIDTH elements from i on, in all three.
        unsafe {
            let at = y.as_mut_ptr().add(i);
            (L::load(at) + f(L::load(x.as_ptr().add(i)), L::load(z.as_ptr().add(i)))).store(at);
        }
        i += L::WIDTH;
    }
    if whole < y.len() {
        let n = y.len() - whole;
        // SAFETY: n elements are left, fewer than WIDTH.
        unsafe {
            let at = y.as_mut_ptr().add(whole);
            let more = f(L::load_first(x.as_ptr().add(whole), n), L::load_first(z.as_ptr().add(whole), n));
            (L::load_first(at, n) + more).store_first(at, n);
        }
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
    top + sum_of_exp::<L>(x, L::lit(top), None).ln()
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
            map::<L>(x, x, dx, |x, _| (x - lse).exp() * scale);
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
