//! Kernels that take a row at a time: softmax, layer norm, cross-entropy, and their ways back, computed in float32.

use super::Gpu;
use super::element::{reader, writer};
use super::faults::{self, Check, Valid};
use super::group::{Head, Span};
use super::kernel::{Grid, Params as _, index, params, with_constants};
use super::pointwise::{self, Buffer};
use crate::dtype::DType;
use crate::error::Result;
use smallvec::SmallVec;
use std::sync::Arc;

/// The type of an operand; one that is not there is not read.
fn dtype(b: Option<Buffer>) -> DType {
    b.map_or(DType::F32, |b| b.dtype)
}

fn spans(list: &[Option<Buffer>]) -> SmallVec<[Span; 4]> {
    list.iter().flatten().map(|b| Span::of(b.place)).collect()
}

/// What tells the texts of a kernel apart, and from other generated ones.
fn key(text: u32, constants: &[(&str, u32)], types: &[DType]) -> SmallVec<[u32; 16]> {
    let types = types.iter().fold(0, |key, dtype| key << 4 | *dtype as u32);
    let constants = constants.iter().map(|(_, value)| *value);
    [u32::MAX, text, types].into_iter().chain(constants).collect()
}

mod softmax {
    use super::*;
    params!(Params { rows: u32, columns: u32, inner: u32, x_at: u32, dy_at: u32 });
    const SOFTMAX: &str = concat!(include_str!("rows.wgsl"), include_str!("softmax.wgsl"));
    const TEXT: u32 = 11;

    /// y = softmax of x or its logarithm along the middle of [outer, n, inner]; with `dy` the gradient from the result x.
    pub fn softmax(
        gpu: &Gpu,
        x: &Buffer,
        dy: Option<&Buffer>,
        [outer, n, inner]: [usize; 3],
        log: bool,
        y: &Buffer,
    ) -> Result<()> {
        let number = |v: usize| index("softmax", v);
        number(x.layout.numel())?;
        let params = Params {
            rows: number(outer * inner)?,
            columns: number(n)?,
            inner: number(inner)?,
            x_at: number(x.offset)?,
            dy_at: number(dy.map_or(0, |b| b.offset))?,
        };
        let constants = [
            ("LANES", lanes(n)),
            ("ACROSS", u32::from(inner > 1)),
            ("LOG", u32::from(log)),
            ("BACK", u32::from(dy.is_some())),
        ];
        gpu.expect_rounds("softmax", 3 * n / 256)?;
        if x.layout.numel() == 0 {
            return Ok(());
        }
        number(y.offset)?;
        let (dy, types) = (dy.copied(), [x.dtype, dtype(dy.copied())]);
        let text =
            move || with_constants(&constants, &(reader("x", 0, types[0]) + &reader("dy", 1, types[1]))) + SOFTMAX;
        let head = Head {
            key: key(TEXT, &constants, &types),
            params: Params::WGSL,
            text: Arc::new(text),
            bindings: SmallVec::from_slice(&[x.place, dy.unwrap_or(*x).place]),
            words: params.words(),
            grid: seats(outer * inner, n),
            reads: spans(&[Some(*x), dy]),
            writes: SmallVec::new(),
        };
        gpu.hold("softmax", SmallVec::from_iter([pointwise::head("softmax", head, y)?]))
    }
}
pub use softmax::softmax;

mod layer_norm {
    use super::*;
    params!(Params {
        rows: u32,
        columns: u32,
        inner: u32,
        eps: f32,
        x_at: u32,
        dy_at: u32,
        weight_at: u32,
        bias_at: u32,
        stats_at: u32,
    });
    const LAYER_NORM: &str = concat!(include_str!("rows.wgsl"), include_str!("layer_norm.wgsl"));
    const TEXT: u32 = 10;

    /// What layer norm reads and writes, row by row; `stats` are a row's mean and reciprocal deviation.
    pub struct LayerNorm<'a> {
        pub x: Buffer<'a>,
        pub weight: Option<Buffer<'a>>,
        pub bias: Option<Buffer<'a>>,
        pub stats: Option<Buffer<'a>>,
        /// With it y is dx; `stats` are then read.
        pub dy: Option<Buffer<'a>>,
        pub y: Buffer<'a>,
        pub columns: usize,
        pub eps: f64,
    }

    impl LayerNorm<'_> {
        pub fn run(&self, gpu: &Gpu) -> Result<()> {
            let number = |v: usize| index("layer_norm", v);
            let at = |b: Option<Buffer>| number(b.map_or(0, |b| b.offset));
            let rows = self.x.layout.numel() / self.columns.max(1);
            number(self.x.layout.numel())?;
            let params = Params {
                rows: number(rows)?,
                columns: number(self.columns)?,
                inner: 1,
                eps: self.eps as f32,
                x_at: at(Some(self.x))?,
                dy_at: at(self.dy)?,
                weight_at: at(self.weight)?,
                bias_at: at(self.bias)?,
                stats_at: at(self.stats)?,
            };
            let constants = [
                ("LANES", lanes(self.columns)),
                ("ACROSS", 0),
                ("WEIGHT", u32::from(self.weight.is_some())),
                ("BIAS", u32::from(self.bias.is_some())),
                ("STATS", u32::from(self.stats.is_some())),
                ("BACK", u32::from(self.dy.is_some())),
            ];
            let place = |b: Option<Buffer>| b.map_or(self.x.place, |b| b.place);
            let bindings = [self.x.place, place(self.dy), place(self.weight), place(self.bias), place(self.stats)];
            gpu.expect_rounds("layer_norm", 3 * self.columns / 256)?;
            if rows * self.columns == 0 {
                return Ok(());
            }
            number(self.y.offset)?;
            let (read, written) = if self.dy.is_some() { (self.stats, None) } else { (None, self.stats) };
            let types = [self.x.dtype, dtype(self.dy), dtype(self.weight), dtype(self.bias)];
            let text = move || {
                let names = ["x", "dy", "weight", "bias"];
                let readers: String = (0..4).map(|i| reader(names[i], i as u32, types[i])).collect();
                with_constants(&constants, &readers) + LAYER_NORM
            };
            let head = Head {
                key: key(TEXT, &constants, &types),
                params: Params::WGSL,
                text: Arc::new(text),
                bindings: SmallVec::from_slice(&bindings),
                words: params.words(),
                grid: seats(rows, self.columns),
                reads: spans(&[Some(self.x), self.dy, self.weight, self.bias, read]),
                writes: SmallVec::from_iter(written.map(|b| Span::of(b.place))),
            };
            gpu.hold("layer_norm", SmallVec::from_iter([pointwise::head("layer_norm", head, &self.y)?]))
        }
    }
}
pub use layer_norm::LayerNorm;

mod cross_entropy {
    use super::*;
    params!(Params {
        rows: u32,
        columns: u32,
        inner: u32,
        ignore_low: u32,
        ignore_high: u32,
        smoothing: f32,
        x_at: u32,
        target_at: u32,
        weight_at: u32,
        slope_at: u32,
        lse_at: u32,
        y_at: u32,
        site: u32,
    });
    const CROSS_ENTROPY: &str =
        concat!(include_str!("rows.wgsl"), include_str!("faults.wgsl"), include_str!("cross_entropy.wgsl"));
    const TEXT: u32 = 12;

    /// What cross-entropy reads and writes: logits [n, c], targets [n], class weights [c].
    pub struct CrossEntropy<'a> {
        pub x: Buffer<'a>,
        pub target: Buffer<'a>,
        pub weight: Option<Buffer<'a>>,
        pub lse: Option<Buffer<'a>>,
        /// The gradient of the losses: with it y is that of the logits.
        pub slope: Option<Buffer<'a>>,
        pub y: Buffer<'a>,
        pub ignore: i64,
        pub smoothing: f64,
    }

    impl CrossEntropy<'_> {
        pub fn run(&self, gpu: &Gpu) -> Result<()> {
            let number = |v: usize| index("cross_entropy", v);
            let at = |b: Option<Buffer>| number(b.map_or(0, |b| b.offset));
            let [rows, columns] = [0, 1].map(|i| self.x.layout.shape()[i]);
            number(self.x.layout.numel())?;
            let params = Params {
                rows: number(rows)?,
                columns: number(columns)?,
                inner: 1,
                ignore_low: self.ignore as u32,
                ignore_high: (self.ignore >> 32) as u32,
                smoothing: self.smoothing as f32,
                x_at: at(Some(self.x))?,
                target_at: at(Some(self.target))?,
                weight_at: at(self.weight)?,
                slope_at: at(self.slope)?,
                lse_at: at(self.lse)?,
                y_at: at(Some(self.y))?,
                site: Check::new("cross_entropy", &[columns], Valid::Targets { ignore: self.ignore }).site(),
            };
            let constants = [
                ("FAULTS", 6),
                ("ENDS", 0),
                ("LANES", lanes(columns)),
                ("ACROSS", 0),
                ("WEIGHT", u32::from(self.weight.is_some())),
                ("LSE", u32::from(self.lse.is_some())),
                ("SMOOTH", u32::from(self.smoothing != 0.0)),
                ("BACK", u32::from(self.slope.is_some())),
            ];
            let place = |b: Option<Buffer>| b.map_or(self.y.place, |b| b.place);
            let bindings = [
                self.x.place,
                self.target.place,
                place(self.weight),
                place(self.slope),
                place(self.lse),
                self.y.place,
                faults::PLACE,
            ];
            gpu.expect_rounds("cross_entropy", 3 * columns / 256)?;
            let types = [self.x.dtype, dtype(self.weight), dtype(self.slope), self.y.dtype];
            let halves = gpu.halves();
            let text = || {
                let readers = [("x", 0, types[0]), ("weight", 2, types[1]), ("slope", 3, types[2])];
                let readers: String = readers.iter().map(|(name, at, dtype)| reader(name, *at, *dtype)).collect();
                let elements = readers + &writer("y", 5, types[3], halves);
                with_constants(&constants, Params::WGSL) + &elements + CROSS_ENTROPY
            };
            let mut key = key(TEXT, &constants, &types);
            key.push(halves.key());
            gpu.run_text("cross_entropy", &key, &text, &bindings, &params, seats(rows, columns))
        }
    }
}
pub use cross_entropy::CrossEntropy;

/// Threads that share a row: about four elements each.
fn lanes(columns: usize) -> u32 {
    columns.div_ceil(4).next_power_of_two().clamp(1, 256) as u32
}

fn seats(rows: usize, columns: usize) -> Grid {
    if columns == 0 {
        return Grid::groups(0);
    }
    Grid::groups(rows.div_ceil(256 / lanes(columns) as usize))
}
