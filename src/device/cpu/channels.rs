//! Kernels that treat each channel of [n, c, s] by itself: moments, an affine map, and the sums of its gradient.
//!
//! Both memory orders are read as they are: channels last row by row, channels first through tiles that are turned on
//! the way, so that the sums are formed in one order and do not depend on the layout by a bit. Sums are gathered in lanes
//! over a few rows and joined in f64; slices of rows are a function of the shape.

use super::conv::Shared;
use super::pool;
use super::rows::Float;
use super::simd::{Kernel, Lanes};
use std::ops::Range;

/// Rows whose sums are gathered in lanes before they are joined in f64.
const TILE: usize = 128;
/// Rows of an affine map that stay in the first-level cache while their channels go by.
const ROWS: usize = 64;
/// No register is wider.
const WIDEST: usize = 16;
/// Elements worth a slice of their own, and slices at the most.
const SLICE: usize = 32 * 1024;
const SLICES: usize = 64;
/// Elements of a plane that a thread takes at a time.
const PIECE: usize = 16 * 1024;

/// n images of c channels of s elements, [n, s, c] in memory when the channels are `last`, else [n, c, s].
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    pub n: usize,
    pub c: usize,
    pub s: usize,
    pub last: bool,
}

impl Channels {
    /// Elements of a channel.
    pub fn rows(&self) -> usize {
        self.n * self.s
    }

    fn len(&self) -> usize {
        self.n * self.c * self.s
    }

    fn slices(&self) -> usize {
        (self.len() / SLICE).clamp(1, SLICES).min(self.rows().div_ceil(TILE).max(1))
    }

    fn slice(&self, i: usize) -> Range<usize> {
        let tiles = self.rows().div_ceil(TILE);
        let at = |i: usize| (i * tiles / self.slices() * TILE).min(self.rows());
        at(i)..at(i + 1)
    }

    /// f64 numbers of scratch that [`moments`] and [`sums`] ask for.
    pub fn scratch(&self) -> usize {
        2 * self.c * self.slices()
    }

    /// The channels from `first` on, as many as lanes, of a few rows: the first element and the distance between rows.
    ///
    /// # Safety
    /// `x` has the sizes of `self`, the rows and `lanes` channels exist, and the buffer has room for the tile.
    #[inline(always)]
    unsafe fn tile<L: Lanes>(
        &self,
        x: *const L::Elem,
        rows: &Range<usize>,
        first: usize,
        lanes: usize,
        buffer: &mut [L::Elem; TILE * WIDEST],
    ) -> (*const L::Elem, usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.last {
                return (x.add(rows.start * self.c + first), self.c);
            }
            for lane in 0..lanes {
                let mut row = rows.start;
                while row < rows.end {
                    let (image, at) = (row / self.s, row % self.s);
                    let run = (self.s - at).min(rows.end - row);
                    let from = x.add((image * self.c + first + lane) * self.s + at);
                    let to = buffer.as_mut_ptr().add((row - rows.start) * L::WIDTH + lane);
                    for i in 0..run {
                        *to.add(i * L::WIDTH) = *from.add(i);
                    }
                    row += run;
                }
            }
            (buffer.as_ptr(), L::WIDTH)
        }
    }
}

/// # Safety
/// `p` is valid for reads of `lanes` elements.
#[inline(always)]
unsafe fn load<L: Lanes>(p: *const L::Elem, lanes: usize) -> L {
    // SAFETY: the caller's promise.
    unsafe { if lanes >= L::WIDTH { L::load(p) } else { L::load_first(p, lanes) } }
}

/// # Safety
/// `p` is valid for writes of `lanes` elements.
#[inline(always)]
unsafe fn store<L: Lanes>(p: *mut L::Elem, x: L, lanes: usize) {
    // SAFETY: the caller's promise.
    unsafe { if lanes >= L::WIDTH { x.store(p) } else { x.store_first(p, lanes) } }
}

/// Sums of the `$count` things that `$term` says of each row, four rows at a time. A macro, because a closure over lanes
/// is not inlined for certain, and one that is not runs without the instructions of its level, 40 times slower.
macro_rules! over_rows {
    ($lanes:ident, $rows:expr, $count:expr, |$row:ident| $term:expr) => {{
        let rows = $rows;
        let mut sums = [[$lanes::lit(0.0); $count]; 4];
        let mut first = 0;
        while first + 4 <= rows {
            for i in 0..4 {
                let $row = first + i;
                let terms: [$lanes; $count] = $term;
                for k in 0..$count {
                    sums[i][k] = sums[i][k] + terms[k];
                }
            }
            first += 4;
        }
        for i in 0..rows - first {
            let $row = first + i;
            let terms: [$lanes; $count] = $term;
            for k in 0..$count {
                sums[i][k] = sums[i][k] + terms[k];
            }
        }
        let mut all = sums[0];
        for k in 0..$count {
            all[k] = (sums[0][k] + sums[1][k]) + (sums[2][k] + sums[3][k]);
        }
        all
    }};
}

/// Registers of channels that lie side by side and are read together: rows are far apart where there are many channels.
const WIDE: usize = 4;

/// Runs a method of `self` on all channels: on `WIDE` registers of them while so many are left and lie side by side.
macro_rules! over_channels {
    ($lanes:ident, $s:expr, $self:ident.$method:ident($($argument:expr),*)) => {{
        let mut first = 0;
        while $s.last && first + WIDE * $lanes::WIDTH <= $s.c {
            $self.$method::<$lanes, WIDE>(first, $lanes::WIDTH, $($argument),*);
            first += WIDE * $lanes::WIDTH;
        }
        while first < $s.c {
            $self.$method::<$lanes, 1>(first, $lanes::WIDTH.min($s.c - first), $($argument),*);
            first += $lanes::WIDTH;
        }
    }};
}

/// The lanes as f64.
#[inline(always)]
fn wide<L: Lanes>(x: L) -> [f64; WIDEST]
where
    L::Elem: Float,
{
    let mut list = [L::Elem::from_f64(0.0); WIDEST];
    // SAFETY: no register is wider.
    unsafe { x.store(list.as_mut_ptr()) };
    list.map(Into::into)
}

/// The mean of each channel, and the mean square of the distance to it.
pub fn moments<E: Float>(s: &Channels, x: &[E], mean: &mut [E], variance: &mut [E], scratch: &mut [f64]) {
    assert!(x.len() == s.len() && mean.len() == s.c && variance.len() == s.c, "bug: moments of other sizes");
    let per_slice = 2 * s.c;
    assert!(scratch.len() >= s.scratch(), "bug: too little scratch");
    let partial = Shared(scratch.as_mut_ptr());
    pool::run(s.slices(), &|i| {
        // SAFETY: a slice has a part of its own.
        let part = unsafe { std::slice::from_raw_parts_mut(partial.get().add(i * per_slice), per_slice) };
        E::dispatch(Moments { s, x, rows: s.slice(i), part });
    });
    for channel in 0..s.c {
        let mut total = (0.0, 0.0, 0.0);
        for i in 0..s.slices() {
            let part = &scratch[i * per_slice..][..per_slice];
            total = joined(total, (s.slice(i).len() as f64, part[channel], part[s.c + channel]));
        }
        (mean[channel], variance[channel]) = (E::from_f64(total.1), E::from_f64(total.2 / total.0));
    }
}

/// Count, mean and sum of squared distances of two sets as one.   Chan et al. 1979
#[inline(always)]
fn joined(a: (f64, f64, f64), b: (f64, f64, f64)) -> (f64, f64, f64) {
    let n = a.0 + b.0;
    if b.0 == 0.0 {
        return a;
    }
    let apart = b.1 - a.1;
    (n, a.1 + apart * (b.0 / n), a.2 + b.2 + apart * apart * (a.0 * b.0 / n))
}

/// part [mean or square][channel]
struct Moments<'a, E> {
    s: &'a Channels,
    x: &'a [E],
    rows: Range<usize>,
    part: &'a mut [f64],
}

impl<E: Float> Kernel<E> for Moments<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(mut self) {
        self.part.fill(0.0);
        let mut buffer = [E::from_f64(0.0); TILE * WIDEST];
        for start in self.rows.clone().step_by(TILE) {
            let rows = start..(start + TILE).min(self.rows.end);
            over_channels!(L, self.s, self.tile(&rows, &mut buffer));
        }
    }
}

impl<E: Float> Moments<'_, E> {
    /// Some rows of V registers of channels, of `lanes` channels each.
    #[inline(always)]
    fn tile<L: Lanes<Elem = E>, const V: usize>(
        &mut self,
        first: usize,
        lanes: usize,
        rows: &Range<usize>,
        buffer: &mut [E; TILE * WIDEST],
    ) {
        let (before, here) = ((rows.start - self.rows.start) as f64, rows.len() as f64);
        // SAFETY: rows and channels that exist.
        let (tile, step) = unsafe { self.s.tile::<L>(self.x.as_ptr(), rows, first, lanes, buffer) };
        // SAFETY: as above.
        let at = |row: usize, v: usize| unsafe { tile.add(row * step + v * L::WIDTH) };
        let mut mean = over_rows!(L, rows.len(), V, |row| {
            let mut x = [L::lit(0.0); V];
            for v in 0..V {
                // SAFETY: as above.
                x[v] = unsafe { load(at(row, v), lanes) };
            }
            x
        });
        for v in 0..V {
            mean[v] = mean[v] / here;
        }
        let square = over_rows!(L, rows.len(), V, |row| {
            let mut square = [L::lit(0.0); V];
            for v in 0..V {
                // SAFETY: as above.
                let apart = unsafe { load::<L>(at(row, v), lanes) } - mean[v];
                square[v] = apart * apart;
            }
            square
        });
        // As `joined`, with the quotients that all channels share.
        let (ratio, cross) = (here / (before + here), before * here / (before + here));
        let (means, squares) = self.part.split_at_mut(self.s.c);
        for v in 0..V {
            let (mean, square) = (wide(mean[v]), wide(square[v]));
            let own = first + v * L::WIDTH..first + v * L::WIDTH + lanes;
            let channels = means[own.clone()].iter_mut().zip(&mut squares[own]);
            for ((m, q), (mean, square)) in channels.zip(mean.into_iter().zip(square)) {
                let apart = mean - *m;
                *m += apart * ratio;
                *q = *q + square + apart * apart * cross;
            }
        }
    }
}

/// Σ dy and Σ dy · (x - center) of each channel.
pub fn sums<E: Float>(
    s: &Channels,
    x: &[E],
    dy: &[E],
    center: &[E],
    [plain, product]: [&mut [E]; 2],
    scratch: &mut [f64],
) {
    assert!(x.len() == s.len() && dy.len() == s.len() && center.len() == s.c, "bug: sums of other sizes");
    assert!(plain.len() == s.c && product.len() == s.c && scratch.len() >= s.scratch(), "bug: sums of other sizes");
    let per_slice = 2 * s.c;
    let partial = Shared(scratch.as_mut_ptr());
    pool::run(s.slices(), &|i| {
        // SAFETY: a slice has a part of its own.
        let part = unsafe { std::slice::from_raw_parts_mut(partial.get().add(i * per_slice), per_slice) };
        E::dispatch(Sums { s, x, dy, center, rows: s.slice(i), part });
    });
    for channel in 0..s.c {
        let over = |at: usize| (0..s.slices()).map(|i| scratch[i * per_slice + at]).sum::<f64>();
        (plain[channel], product[channel]) = (E::from_f64(over(channel)), E::from_f64(over(s.c + channel)));
    }
}

/// part [plain or product][channel]
struct Sums<'a, E> {
    s: &'a Channels,
    x: &'a [E],
    dy: &'a [E],
    center: &'a [E],
    rows: Range<usize>,
    part: &'a mut [f64],
}

impl<E: Float> Kernel<E> for Sums<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(mut self) {
        self.part.fill(0.0);
        let zero = E::from_f64(0.0);
        let mut buffers = [[zero; TILE * WIDEST], [zero; TILE * WIDEST]];
        for start in self.rows.clone().step_by(TILE) {
            let rows = start..(start + TILE).min(self.rows.end);
            over_channels!(L, self.s, self.tile(&rows, &mut buffers));
        }
    }
}

impl<E: Float> Sums<'_, E> {
    /// As for moments, of x and dy.
    #[inline(always)]
    fn tile<L: Lanes<Elem = E>, const V: usize>(
        &mut self,
        first: usize,
        lanes: usize,
        rows: &Range<usize>,
        [buffer_x, buffer_dy]: &mut [[E; TILE * WIDEST]; 2],
    ) {
        let s = self.s;
        let mut center = [L::lit(0.0); V];
        // SAFETY: rows and channels that exist, of both.
        let (x, dy, step) = unsafe {
            for v in 0..V {
                center[v] = load(self.center.as_ptr().add(first + v * L::WIDTH), lanes);
            }
            let (x, step) = s.tile::<L>(self.x.as_ptr(), rows, first, lanes, buffer_x);
            let (dy, _) = s.tile::<L>(self.dy.as_ptr(), rows, first, lanes, buffer_dy);
            (x, dy, step)
        };
        let both = over_rows!(L, rows.len(), 2 * WIDE, |row| {
            let mut terms = [L::lit(0.0); 2 * WIDE];
            for v in 0..V {
                // SAFETY: as above.
                unsafe {
                    let dy = load::<L>(dy.add(row * step + v * L::WIDTH), lanes);
                    terms[v] = dy;
                    terms[WIDE + v] = dy * (load::<L>(x.add(row * step + v * L::WIDTH), lanes) - center[v]);
                }
            }
            terms
        });
        for v in 0..V {
            let (plain, product) = (wide(both[v]), wide(both[WIDE + v]));
            for lane in 0..lanes {
                self.part[first + v * L::WIDTH + lane] += plain[lane];
                self.part[s.c + first + v * L::WIDTH + lane] += product[lane];
            }
        }
    }
}

/// The numbers of an affine map, one of each a channel.
#[derive(Clone, Copy)]
pub struct Affine<'a, E> {
    pub center: &'a [E],
    pub scale: &'a [E],
    pub shift: &'a [E],
}

impl<'a, E> Affine<'a, E> {
    /// The three lists one after the other.
    pub fn of(numbers: &'a [E]) -> Affine<'a, E> {
        let (center, rest) = numbers.split_at(numbers.len() / 3);
        let (scale, shift) = rest.split_at(center.len());
        Affine { center, scale, shift }
    }

    /// The map of some of the channels.
    pub fn part(&self, channels: Range<usize>) -> Affine<'a, E> {
        let of = |list: &'a [E]| &list[channels.clone()];
        Affine { center: of(self.center), scale: of(self.scale), shift: of(self.shift) }
    }
}

/// y = (x - center) · scale + shift, and with a second tensor and its own scale + dy · slope.
pub fn affine<E: Float>(s: &Channels, x: &[E], map: Affine<E>, more: Option<(&[E], &[E])>, y: &mut [E]) {
    assert!(
        more.is_none_or(|(dy, slope)| dy.len() == s.len() && slope.len() == s.c),
        "bug: an affine map of other sizes"
    );
    let y = mapped(s, x, map, y);
    match more {
        None => over_parts(s, |part| E::dispatch(Map::<E, PLAIN> { s, x, map, dy: &[], slope: &[], part, y })),
        Some((dy, slope)) => over_parts(s, |part| E::dispatch(Map::<E, MORE> { s, x, map, dy, slope, part, y })),
    }
}

/// y = max((x - center) · scale + shift, 0), as `bits::relu` has it.
pub fn affine_relu<E: Float>(s: &Channels, x: &[E], map: Affine<E>, y: &mut [E]) {
    let y = mapped(s, x, map, y);
    over_parts(s, |part| E::dispatch(Map::<E, RELU> { s, x, map, dy: &[], slope: &[], part, y }));
}

/// max(x, 0), and NaN of NaN.
#[inline(always)]
fn relu<L: Lanes>(x: L) -> L {
    L::select(L::or(x.gt(L::lit(0.0)), x.is_nan()), x, L::lit(0.0))
}

/// Some pixels of some channels as [`affine_relu`] makes them, for a kernel that copies what it reads anyway.
///
/// # Safety
/// Of `pixels`, `from.1` and `to.1` elements apart, `map` has the numbers of their channels; `from` and `to` are valid for them.
#[inline(always)]
pub unsafe fn copy_affine_relu<L: Lanes>(
    map: &Affine<L::Elem>,
    pixels: usize,
    from: (*const L::Elem, usize),
    to: (*mut L::Elem, usize),
) {
    let channels = map.center.len();
    for first in (0..channels).step_by(L::WIDTH) {
        let lanes = L::WIDTH.min(channels - first);
        // SAFETY: the caller's promise.
        unsafe {
            let of = |list: &[L::Elem]| load::<L>(list.as_ptr().add(first), lanes);
            let (center, scale, shift) = (of(map.center), of(map.scale), of(map.shift));
            for pixel in 0..pixels {
                let x = load::<L>(from.0.add(pixel * from.1 + first), lanes);
                store(to.0.add(pixel * to.1 + first), relu((x - center) * scale + shift), lanes);
            }
        }
    }
}

const PLAIN: u8 = 0;
/// With a second tensor.
const MORE: u8 = 1;
const RELU: u8 = 2;

fn mapped<E: Float>(s: &Channels, x: &[E], map: Affine<E>, y: &mut [E]) -> Shared<E> {
    assert!(x.len() == s.len() && y.len() == s.len(), "bug: an affine map of other sizes");
    assert!([map.center, map.scale, map.shift].iter().all(|v| v.len() == s.c), "bug: an affine map of other sizes");
    Shared(y.as_mut_ptr())
}

/// Runs a map part by part.
fn over_parts(s: &Channels, run: impl Fn(Part) + Sync) {
    if s.last {
        let rows = s.rows();
        let part = pool::chunk_rows(rows, 0.3 * s.c as f64);
        pool::run(rows.div_ceil(part), &|i| run(Part::Rows(i * part..((i + 1) * part).min(rows))));
        return;
    }
    let planes = s.n * s.c;
    if s.s > PIECE {
        let pieces = s.s.div_ceil(PIECE);
        pool::run(planes * pieces, &|i| {
            let start = i % pieces * PIECE;
            run(Part::Planes(i / pieces..i / pieces + 1, start..(start + PIECE).min(s.s)));
        });
    } else {
        let part = pool::chunk_rows(planes, 0.3 * s.s as f64);
        pool::run(planes.div_ceil(part), &|i| run(Part::Planes(i * part..((i + 1) * part).min(planes), 0..s.s)));
    }
}

/// What one thread maps: rows of channels-last data, or a range of some planes.
enum Part {
    Rows(Range<usize>),
    Planes(Range<usize>, Range<usize>),
}

struct Map<'a, E, const KIND: u8> {
    s: &'a Channels,
    x: &'a [E],
    map: Affine<'a, E>,
    dy: &'a [E],
    slope: &'a [E],
    part: Part,
    y: Shared<E>,
}

/// The numbers of a few channels, or those of one in all lanes.
#[derive(Clone, Copy)]
struct Numbers<L> {
    center: L,
    scale: L,
    shift: L,
    slope: L,
}

impl<E: Float, const KIND: u8> Kernel<E> for Map<'_, E, KIND> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let (s, map) = (self.s, &self.map);
        // SAFETY: the parts of the threads are disjoint, and all elements and channels exist.
        unsafe {
            match &self.part {
                Part::Rows(rows) => {
                    for start in rows.clone().step_by(ROWS) {
                        let end = (start + ROWS).min(rows.end);
                        over_channels!(L, s, self.rows(start..end));
                    }
                }
                Part::Planes(planes, range) => {
                    for plane in planes.clone() {
                        let channel = plane % s.c;
                        let numbers = Numbers {
                            center: L::splat(map.center[channel]),
                            scale: L::splat(map.scale[channel]),
                            shift: L::splat(map.shift[channel]),
                            slope: if KIND == MORE { L::splat(self.slope[channel]) } else { L::lit(0.0) },
                        };
                        for at in range.clone().step_by(L::WIDTH) {
                            self.element(plane * s.s + at, L::WIDTH.min(range.end - at), numbers);
                        }
                    }
                }
            }
        }
    }
}

impl<E: Float, const KIND: u8> Map<'_, E, KIND> {
    /// Some rows of V registers of channels, of `lanes` channels each.
    ///
    /// # Safety
    /// The rows exist and are this thread's.
    #[inline(always)]
    unsafe fn rows<L: Lanes<Elem = E>, const V: usize>(&self, first: usize, lanes: usize, rows: Range<usize>) {
        let map = &self.map;
        let mut numbers =
            [Numbers { center: L::lit(0.0), scale: L::lit(0.0), shift: L::lit(0.0), slope: L::lit(0.0) }; V];
        // SAFETY: the channels exist, and the caller's promise.
        unsafe {
            for (v, numbers) in numbers.iter_mut().enumerate() {
                let of = |list: &[E]| load::<L>(list.as_ptr().add(first + v * L::WIDTH), lanes);
                (numbers.center, numbers.scale, numbers.shift) = (of(map.center), of(map.scale), of(map.shift));
                if KIND == MORE {
                    numbers.slope = of(self.slope);
                }
            }
            for row in rows {
                for v in 0..V {
                    self.element(row * self.s.c + first + v * L::WIDTH, lanes, numbers[v]);
                }
            }
        }
    }

    /// # Safety
    /// `lanes` elements from `at` on exist and are this thread's.
    #[inline(always)]
    unsafe fn element<L: Lanes<Elem = E>>(&self, at: usize, lanes: usize, numbers: Numbers<L>) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = load::<L>(self.x.as_ptr().add(at), lanes);
            let mut y = (x - numbers.center) * numbers.scale + numbers.shift;
            if KIND == MORE {
                y = y + load::<L>(self.dy.as_ptr().add(at), lanes) * numbers.slope;
            }
            if KIND == RELU {
                y = relu(y);
            }
            store(self.y.get().add(at), y, lanes);
        }
    }
}
