//! Attention in tiles, forward and backward, computed in float32: what `cpu/attention` does. Memory beyond the operands is one number a
//! row. Dropout draws the stream of `cpu/random`.

use super::Gpu;
use super::element::{reader, writer};
use super::kernel::{Grid, Words, index, with_constants};
use super::places::{place, scratch};
use super::pointwise::Buffer;
use super::random::{threshold, words};
use crate::device::cpu::random::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::broadcast_strides;

/// Leading dims that the kernels take.
pub const LEAD: usize = 4;

// Of each operand the steps along the leading dims; then its start, and the steps along its rows and its columns.
const PARAMS: &str = concat!(
    "struct Params { lead: vec4<u32>, ",
    "q_lead: vec4<i32>, k_lead: vec4<i32>, v_lead: vec4<i32>, mask_lead: vec4<i32>, dy_lead: vec4<i32>, y_lead: vec4<i32>, ",
    "more_lead: vec4<i32>, ",
    "q_at: vec4<i32>, k_at: vec4<i32>, v_at: vec4<i32>, mask_at: vec4<i32>, dy_at: vec4<i32>, y_at: vec4<i32>, ",
    "more_at: vec4<i32>, ",
    "queries: u32, keys: u32, width: u32, value_width: u32, groups: u32, blocks: u32, chunks: u32, sums_at: u32, ",
    "scale: f32, inverse: f32, least: u32, key_low: u32, key_high: u32, offset_low: u32, offset_high: u32, }\n",
    "@group(1) @binding(0) var<uniform> p: Params;\n"
);

const ATTENTION: &str = concat!(include_str!("philox.wgsl"), include_str!("attention.wgsl"));
/// Tells these texts apart from other generated ones.
const TEXT: u32 = 13;

/// What a kind does not read or write.
const NO_O: &str = "fn o_at(at: u32) -> f32 {\n    return 0.0f;\n}\n";
const NO_Z: &str = "fn z_put(at: u32, value: f32) {\n}\n";

const TILE: usize = 32;
/// Columns that a group makes.
const WIDE: usize = 64;

/// What dropout draws, and the chance to stay.
#[derive(Clone, Copy)]
pub struct Dropout {
    pub stream: Stream,
    pub keep: f64,
}

/// Operands of rank 2 or more, whose leading dims broadcast to `lead`.
pub struct Job<'a> {
    pub lead: &'a [usize],
    pub q: Buffer<'a>,
    pub k: Buffer<'a>,
    pub v: Buffer<'a>,
    pub mask: Option<Buffer<'a>>,
    pub scale: f64,
    pub causal: bool,
    pub dropout: Option<Dropout>,
}

/// One of the three kinds: its result and what that needs besides the operands.
struct Pass<'a> {
    kind: u32,
    /// The gradient of the output; on the way there the output.
    dy: Buffer<'a>,
    y: Buffer<'a>,
    /// The output where dq is made, and dv beside dk.
    more: Option<Buffer<'a>>,
}

impl Job<'_> {
    fn sizes(&self) -> [usize; 4] {
        let last = |b: &Buffer, back: usize| b.layout.shape()[b.layout.rank() - back];
        [last(&self.q, 2), last(&self.k, 2), last(&self.q, 1), last(&self.v, 1)]
    }

    fn rows(&self) -> usize {
        self.lead.iter().product::<usize>() * self.sizes()[0]
    }

    /// y = the output, and the logarithm of the sum of each row; both of the full leading dims.
    pub fn forward(&self, gpu: &Gpu, y: Buffer, sums: &Buffer) -> Result<()> {
        let totals = y;
        self.run(gpu, &Pass { kind: 0, dy: y, y, more: None }, sums, &totals)
    }

    /// Gradients of the full leading dims.
    pub fn backward(&self, gpu: &Gpu, y: Buffer, sums: &Buffer, dy: Buffer, dx: [Buffer; 3]) -> Result<()> {
        let rows = self.rows();
        if rows == 0 {
            // Nothing was asked of the keys.
            return Ok(());
        }
        let block = scratch(gpu, rows)?;
        let totals = Buffer { place: place(&block), offset: 0, ..*sums };
        let [dq, dk, dv] = dx;
        self.run(gpu, &Pass { kind: 1, dy, y: dq, more: Some(y) }, sums, &totals)?;
        self.run(gpu, &Pass { kind: 2, dy, y: dk, more: Some(dv) }, sums, &totals)
    }

    /// Rounds of loops of a thread for each tile of the other side.
    fn rounds(&self, kind: u32) -> usize {
        let [_, _, width, value_width] = self.sizes();
        // Filling two tiles and multiplying them, for each 32 of the columns.
        let product = |columns: usize| columns.div_ceil(TILE) * 66;
        let scores = product(width) + if kind > 0 { product(value_width) } else { 0 };
        let results = if kind == 2 { 2 } else { 1 };
        scores + results * 2 * 54 + 100 + if self.dropout.is_some() { 16 * 11 } else { 0 }
    }

    fn run(&self, gpu: &Gpu, pass: &Pass, sums: &Buffer, totals: &Buffer) -> Result<()> {
        let [queries, keys, width, value_width] = self.sizes();
        let own = if pass.kind < 2 { queries } else { keys };
        let wide = [value_width, width, width.max(value_width)][pass.kind as usize];
        let (blocks, chunks) = (own.div_ceil(TILE), wide.div_ceil(WIDE).max(1));
        let groups = self.lead.iter().product::<usize>() * blocks * chunks;
        if groups == 0 {
            return Ok(());
        }
        let other = if pass.kind < 2 { keys } else { queries };
        let totals_rounds = if pass.kind == 1 { value_width } else { 0 };
        gpu.expect_rounds("attention", totals_rounds + other.div_ceil(TILE) * self.rounds(pass.kind))?;
        let params = self.params(pass, sums, groups, blocks, chunks)?;
        let mask = match &self.mask {
            None => 0,
            Some(mask) if mask.dtype == DType::Bool => 1,
            Some(_) => 2,
        };
        let constants = [
            ("KIND", pass.kind),
            ("CAUSAL", u32::from(self.causal)),
            ("MASK", mask),
            ("DROPOUT", u32::from(self.dropout.is_some())),
        ];
        let shown = self.mask.as_ref().map_or(self.q.place, |mask| mask.place);
        let more = pass.more.unwrap_or(pass.y);
        let [q, k, v] = [self.q.place, self.k.place, self.v.place];
        let bindings = [q, k, v, shown, sums.place, pass.dy.place, totals.place, pass.y.place, more.place];
        let shown = self.mask.map_or(DType::F32, |mask| mask.dtype);
        let types = [self.q.dtype, self.k.dtype, self.v.dtype, shown, pass.dy.dtype, pass.y.dtype, more.dtype];
        let (halves, kind) = (gpu.halves(), pass.kind);
        let text = || {
            let read = [("q", 0), ("k", 1), ("v", 2), ("mask", 3), ("dy", 5)];
            let readers: String = read.iter().zip(types).map(|((name, at), dtype)| reader(name, *at, dtype)).collect();
            let of = if shown == DType::Bool { "f32(mask_at(at).x)" } else { "mask_at(at)" };
            let mask = format!("fn mask_of(at: u32) -> f32 {{\n    return {of};\n}}\n");
            let o = if kind == 1 { reader("o", 8, types[6]) } else { NO_O.into() };
            let z = if kind == 2 { writer("z", 8, types[6], halves) } else { NO_Z.into() };
            let results = writer("y", 7, types[5], halves) + &z;
            with_constants(&constants, PARAMS) + &readers + &mask + &o + &results + ATTENTION
        };
        let mut key = vec![u32::MAX, TEXT, halves.key()];
        key.extend(constants.iter().map(|(_, value)| *value).chain(types.map(|dtype| dtype as u32)));
        gpu.run_text("attention", &key, &text, &bindings, &params, Grid::groups(groups))
    }

    fn params(&self, pass: &Pass, sums: &Buffer, groups: usize, blocks: usize, chunks: usize) -> Result<Words> {
        let number = |v: usize| index("attention", v);
        let Some(spare) = LEAD.checked_sub(self.lead.len()) else {
            return Err(Error::device(format!(
                "attention: {} leading dims; kernels of a GPU take {LEAD} (help: q.flatten(0, 1), and k and v as well)",
                self.lead.len()
            )));
        };
        let mut words = Words::new();
        words.extend(std::iter::repeat_n(1, spare));
        for &size in self.lead {
            words.push(number(size)?);
        }
        let (mask, more) = (self.mask.as_ref(), pass.more.as_ref());
        let operands = [Some(&self.q), Some(&self.k), Some(&self.v), mask, Some(&pass.dy), Some(&pass.y), more];
        let mut ends = Words::new();
        for buffer in operands {
            let Some(buffer) = buffer else {
                words.extend([0; LEAD]);
                ends.extend([0; 4]);
                continue;
            };
            let rank = buffer.layout.rank();
            // Both last dims of a mask broadcast as well.
            let mut full = self.lead.to_vec();
            let [queries, keys, ..] = self.sizes();
            match self.mask.as_ref().is_some_and(|mask| std::ptr::eq(mask, buffer)) {
                true => full.extend([queries, keys]),
                false => full.extend(&buffer.layout.shape()[rank - 2..]),
            }
            let strides = broadcast_strides(buffer.layout, &full);
            let (lead, own) = strides.split_at(self.lead.len());
            words.extend(std::iter::repeat_n(0, spare));
            for &stride in lead {
                number(stride.unsigned_abs())?;
                words.push(stride as i32 as u32);
            }
            ends.push(number(buffer.offset + buffer.layout.numel()).and_then(|_| number(buffer.offset))?);
            for &stride in own {
                number(stride.unsigned_abs())?;
                ends.push(stride as i32 as u32);
            }
            ends.push(0);
        }
        words.extend(ends);
        for size in self.sizes().into_iter().chain([groups, blocks, chunks, sums.offset]) {
            words.push(number(size)?);
        }
        let Dropout { stream, keep } =
            self.dropout.unwrap_or(Dropout { stream: Stream { key: 0, offset: 0 }, keep: 1.0 });
        let inverse = if keep > 0.0 { 1.0 / keep } else { 0.0 };
        words.extend([(self.scale as f32).to_bits(), (inverse as f32).to_bits(), threshold(keep)]);
        words.extend(words_of(stream));
        Ok(words)
    }
}

fn words_of(stream: Stream) -> [u32; 4] {
    let ([key_low, key_high], [offset_low, offset_high]) = (words(stream.key), words(stream.offset));
    [key_low, key_high, offset_low, offset_high]
}
