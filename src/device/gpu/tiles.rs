//! How a product of matrices is cut into tiles, and the text of its kernel (`gemm.wgsl`, `cooperative.wgsl`, `direct.wgsl`,
//! `join.wgsl`).

use super::Gpu;
use super::cooperative::Matrices;
use super::element;
use super::group::{Head, NO_FINISH, Span};
use super::halves::{self, Halves};
use super::kernel::{Bindings, Grid, Params as _, Words, index, params, with_constants};
use super::pointwise::{self, Buffer};
use super::unroll::unroll;
use crate::arena::space::Place;
use crate::dtype::DType;
use crate::error::Result;
use smallvec::SmallVec;
use std::sync::Arc;

params!(Join {
    outputs: u32,
    rows: u32,
    splits: u32,
    size1: u32,
    size2: u32,
    step0: u32,
    step1: u32,
    step2: u32,
    sums_at: u32,
});

/// Tells these texts apart from other generated ones.
const TEXT: u32 = 17;

/// A batch of products [m, k] · [k, n].
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// Groups that keep a GPU busy, and threads.
const GROUPS: usize = 128;
const THREADS: usize = 1 << 15;
/// Parts of a cut k are added up by one thread each.
const MOST_SPLITS: usize = 63;
/// Stands for `sums.wgsl`.
const NO_SUMS: &str = "fn leave_sum(whole: u32, m: u32, value: f32) {\n}\n";
/// Of k, that a thread adds up in a row.
const LONGEST: usize = 1 << 15;

/// How a product is made; a function of its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Rows and columns that a thread makes; 1 where tiles would be all but empty.
    per: usize,
    pub splits: usize,
    /// Of k, in each split.
    pub run: usize,
    units: usize,
    sums: usize,
    /// Of the left side, that are added up as well.
    rows: usize,
}

impl Cut {
    /// `narrow` products are made one sum a thread; without `may_split` k stays whole.
    pub fn new(s: Sizes, narrow: bool, may_split: bool) -> Cut {
        let sums = s.batch * s.m * s.n;
        let tiles = |per: usize| s.batch * s.m.div_ceil(16 * per) * s.n.div_ceil(16 * per);
        let per = match () {
            _ if narrow => 1,
            _ if s.m >= 128 && s.n >= 128 && tiles(8) >= 16 => 8,
            _ => 4,
        };
        let (units, busy, least) = if narrow { (sums, THREADS, 64) } else { (tiles(per), GROUPS, 256) };
        let wanted = (busy / units.max(1)).min(s.k / least).max(s.k.div_ceil(LONGEST));
        let wanted = if may_split { wanted.clamp(1, MOST_SPLITS) } else { 1 };
        let run = s.k.div_ceil(wanted).next_multiple_of(16).max(16);
        let splits = s.k.div_ceil(run).max(1);
        Cut { per, splits, run, units: units * splits, sums, rows: 0 }
    }

    /// Cut in two, in tiles of 128.
    pub fn in_two(s: Sizes) -> Cut {
        let units = 2 * s.batch * s.m.div_ceil(128) * s.n.div_ceil(128);
        Cut { per: 8, splits: 2, run: s.k.div_ceil(2).next_multiple_of(16), units, sums: s.batch * s.m * s.n, rows: 0 }
    }

    /// The same, where the rows of the left side are added up as well.
    pub fn summing_rows(self, s: Sizes) -> Cut {
        Cut { rows: s.batch * s.m, ..self }
    }

    /// Bytes of scratch memory for the sums of the splits.
    pub fn scratch_bytes(&self) -> usize {
        if self.splits == 1 { 0 } else { self.splits * (self.sums + self.rows) * 4 }
    }

    pub fn grid(&self) -> Grid {
        if self.per == 1 { Grid::threads(self.units) } else { Grid::groups(self.units) }
    }

    /// The text: params and constants, the way to the operands, and the tiles, of matrices where an adapter multiplies these.
    pub fn text(&self, constants: &[(&str, u32)], params: &str, operands: &str, matrices: Option<Matrices>) -> String {
        let own = [("PER", self.per as u32), ("SUMS", u32::from(self.rows > 0))];
        let text = with_constants(&own, &with_constants(constants, params)) + operands;
        let text = text + if self.rows > 0 { include_str!("sums.wgsl") } else { NO_SUMS };
        let per = self.per;
        text + &match matrices {
            _ if per == 1 => include_str!("direct.wgsl").into(),
            None => {
                let tiles = unroll(include_str!("gemm.wgsl"), &[("i", per), ("h", per / 4), ("j", per / 4)]);
                include_str!("quads.wgsl").to_string() + &tiles
            }
            Some(matrices) => {
                let along = |name: &str| constants.contains(&(name, 1));
                include_str!("quads.wgsl").to_string() + &matrices.tiles(per, along("LEFT_M"), along("RIGHT_N"))
            }
        }
    }

    /// What tells these texts apart from other generated ones: `kernel` is a number of the caller's.
    pub fn key(&self, kernel: u32, constants: &[(&str, u32)]) -> SmallVec<[u32; 8]> {
        let mut key = SmallVec::from_slice(&[u32::MAX, kernel, self.per as u32]);
        key.extend(constants.iter().map(|(_, value)| *value));
        key
    }

    /// Adds up what the splits left. `order` are sizes and strides of the sums of a split in the order of y.
    fn join(
        &self,
        gpu: &Gpu,
        op: &'static str,
        part: Place,
        order: [(usize, usize); 3],
        y: &Buffer,
        sums: Option<&Buffer>,
    ) -> Result<()> {
        let number = |v: usize| index(op, v);
        number(self.splits * (self.sums + self.rows))?;
        let [(_, step0), (size1, step1), (size2, step2)] = order;
        let params = Join {
            outputs: number(self.sums)?,
            rows: number(self.rows)?,
            splits: number(self.splits)?,
            size1: number(size1)?,
            size2: number(size2)?,
            step0: number(step0)?,
            step1: number(step1)?,
            step2: number(step2)?,
            sums_at: number(sums.map_or(0, |b| b.offset))?,
        };
        let (halves, dtype) = (gpu.halves(), sums.map(|b| b.dtype));
        let text = move || {
            let adds = [("SUMS", u32::from(dtype.is_some()))];
            let writer = match dtype {
                Some(dtype) => element::writer("sums", 1, dtype, halves),
                None => "fn sums_put(at: u32, value: f32) {\n}\n".into(),
            };
            with_constants(&adds, &writer) + include_str!("join.wgsl")
        };
        let mut head = Head {
            key: SmallVec::from_slice(&[u32::MAX, TEXT, halves.key() << 4, dtype.map_or(u32::MAX, |d| d as u32)]),
            params: Join::WGSL,
            text: Arc::new(text),
            bindings: SmallVec::from_slice(&[part]),
            words: params.words(),
            grid: Grid::threads(self.sums + self.rows),
            reads: SmallVec::from_slice(&[Span::of(part)]),
            writes: SmallVec::new(),
        };
        if let Some(sums) = sums {
            head.bindings.push(sums.place);
            head.writes.push(Span::of(sums.place));
        }
        gpu.hold(op, SmallVec::from_iter([pointwise::head(op, head, y)?]))
    }
}

/// What of an adapter the text of a product depends on.
#[derive(Clone, Copy, Debug)]
pub struct With {
    pub halves: Halves,
    /// Where float16 is multiplied in tiles.
    pub matrices: Option<Matrices>,
}

/// A product worked out, whose result is gapless.
pub struct Product {
    pub op: &'static str,
    pub cut: Cut,
    pub key: SmallVec<[u32; 8]>,
    pub constants: SmallVec<[(&'static str, u32); 6]>,
    pub params: &'static str,
    pub operands: &'static str,
    pub words: Words,
    /// Whether four elements of an operand can be fetched at once, along the axis that threads fetch along.
    pub fours: [bool; 2],
}

/// How elements of an operand are read, where four of them are fetched at once or one; and what lies in the group's memory,
/// a Cell: float32, or float16 where the adapter has that.
fn reader(side: &str, name: &str, binding: &str, dtype: DType, four: bool, halves: Halves) -> String {
    let cell = if dtype == DType::F16 && halves.f16 { "f16" } else { "f32" };
    let plain = dtype == DType::F32 || cell == "f16";
    let bits = |word: &str| halves::number(dtype, &halves::bits(word, "at"));
    let half = |word: &str, shift: u32| halves::number(dtype, &format!("({word} >> {shift}u) & 0xffffu"));
    let (word, element) = match (plain, four) {
        (true, true) => (format!("vec4<{cell}>"), format!("{binding}[at >> 2u][at & 3u]")),
        (true, false) => (cell.into(), format!("{binding}[at]")),
        (false, true) => ("vec2<u32>".into(), bits(&format!("{binding}[at >> 2u][(at >> 1u) & 1u]"))),
        (false, false) => ("u32".into(), bits(&format!("{binding}[at >> 1u]"))),
    };
    let whole = match (plain, four) {
        (true, true) => format!("return {binding}[at >> 2u];"),
        (false, true) => {
            let parts = [("w.x", 0), ("w.x", 16), ("w.y", 0), ("w.y", 16)].map(|(word, shift)| half(word, shift));
            format!("let w = {binding}[at >> 2u];\n    return vec4<f32>({});", parts.join(", "))
        }
        (_, false) => {
            let each = ["at", "at + 1u", "at + 2u", "at + 3u"].map(|at| format!("{side}_element({at})"));
            format!("return vec4<{cell}>({});", each.join(", "))
        }
    };
    format!(
        "const {}_FOUR: u32 = {}u;\nalias {name}Word = {word};\nalias {name}Cell = {cell};\n\
         alias {name}Four = vec4<{cell}>;\nalias {name}Block = mat4x4<{cell}>;\n\
         fn {side}_element(at: u32) -> {cell} {{\n    return {element};\n}}\n\
         fn {side}_word(at: u32) -> vec4<{cell}> {{\n    {whole}\n}}\n",
        side.to_uppercase(),
        u32::from(four)
    )
}

impl Product {
    /// The text, for operands and a bias of these dtypes. `params` is their declaration where it is not to be found elsewhere.
    fn text(&self, params: &str, dtypes: [DType; 3], sums: Option<DType>, with: With) -> String {
        let left = reader("left", "Left", "a", dtypes[0], self.fours[0], with.halves);
        let right = reader("right", "Right", "b", dtypes[1], self.fours[1], with.halves);
        let bias = element::reader("bias", 2, dtypes[2]);
        let sums = sums.map_or(String::new(), |dtype| element::writer("sums", 4, dtype, with.halves));
        self.cut.text(&self.constants, params, &(left + &right + &bias + &sums + self.operands), with.matrices)
    }

    /// The text of a product of float16 that is cut along k, so that its sums are left in binding 3.
    pub fn text_of_parts(&self, with: With) -> String {
        self.text(self.params, [DType::F16, DType::F16, DType::F32], None, with) + NO_FINISH
    }

    /// `order` is that of `join`; sums are those of the rows of a.
    pub fn run(
        mut self,
        gpu: &Gpu,
        [a, b]: [&Buffer; 2],
        [bias, sums]: [Option<&Buffer>; 2],
        y: &Buffer,
        scratch: Option<Place>,
        order: [(usize, usize); 3],
    ) -> Result<()> {
        if y.layout.numel() == 0 {
            return Ok(());
        }
        let (op, cut, dtypes) = (self.op, self.cut, [a.dtype, b.dtype, bias.map_or(DType::F32, |b| b.dtype)]);
        let multiplied = cut.per > 1 && a.dtype == DType::F16 && b.dtype == DType::F16;
        let with = With { halves: gpu.halves(), matrices: gpu.matrices().filter(|_| multiplied) };
        let fetched = u32::from(self.fours[0]) << 1 | u32::from(self.fours[1]);
        let summed = sums.map(|b| b.dtype);
        self.key.extend([
            dtypes.iter().fold(with.halves.key() << 2 | fetched, |key, dtype| key << 4 | *dtype as u32),
            // Where there are none their number says so.
            summed.map_or(u32::MAX, |dtype| dtype as u32),
            u32::from(with.matrices.is_some()),
        ]);
        let part = scratch.unwrap_or(y.place);
        // Without a bias its binding shows something else that is not read.
        let mut bindings: SmallVec<[Place; 6]> =
            SmallVec::from_slice(&[a.place, b.place, bias.map_or(part, |b| b.place), part]);
        bindings.extend(sums.map(|b| b.place));
        gpu.expect_rounds(op, cut.run + cut.run / 8)?;
        if cut.splits > 1 {
            let text = || self.text(self.params, dtypes, summed, with) + NO_FINISH;
            gpu.run_text(op, &self.key, &text, Bindings::reading(2, &bindings), &self.words, cut.grid())?;
            return cut.join(gpu, op, part, order, y, sums);
        }
        let reads = [Some(a), Some(b), bias].into_iter().flatten().map(|b| Span::of(b.place)).collect();
        let head = Head {
            key: SmallVec::from_slice(&self.key),
            params: self.params,
            bindings,
            words: self.words.clone(),
            grid: cut.grid(),
            reads,
            writes: sums.iter().map(|b| Span::of(b.place)).collect(),
            text: Arc::new(move || self.text("", dtypes, summed, with)),
        };
        gpu.hold(op, SmallVec::from_iter([pointwise::head(op, head, y)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_thin_products_are_cut_along_k() {
        let cut = |batch, m, k, n| Cut::new(Sizes { batch, m, k, n }, false, true);
        assert_eq!((cut(1, 64, 100, 64).splits, cut(1, 64, 0, 64).splits), (1, 1));
        let long = cut(1, 64, 65_536, 576);
        assert_eq!((long.splits, long.run % 16), (14, 0));
        assert!(long.splits * long.run >= 65_536 && (long.splits - 1) * long.run < 65_536);
        assert_eq!((cut(1, 512, 64, 512).per, cut(1, 64, 64, 4096).per), (8, 4));
    }

    #[test]
    fn halves_stay_halves_in_the_memory_of_a_group_where_the_adapter_has_them() {
        let text = |dtype, f16| reader("left", "Left", "a", dtype, true, Halves { f16, i16: true });
        assert!(text(DType::F16, true).contains("alias LeftWord = vec4<f16>;\nalias LeftCell = f16;"));
        for (dtype, f16) in [(DType::F16, false), (DType::BF16, true), (DType::F32, true)] {
            assert!(!text(dtype, f16).contains("<f16>") && text(dtype, f16).contains("alias LeftCell = f32;"));
        }
    }
}
