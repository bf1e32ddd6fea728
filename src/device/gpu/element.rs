//! WGSL that reads one element of any type as a number to compute with, and writes one of a floating type.

use super::halves::{self, Halves};
use crate::dtype::DType;

/// What kernels that take every type compute in: `f32`, or 64-bit integers as `vec2<u32>`, the lower half first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Float,
    Wide,
}

impl Number {
    pub fn of(dtype: DType) -> Number {
        if dtype.is_float() { Number::Float } else { Number::Wide }
    }

    pub fn wgsl(self) -> &'static str {
        match self {
            Number::Float => "f32",
            Number::Wide => "vec2<u32>",
        }
    }

    /// What results are stored as.
    pub fn dtype(self) -> DType {
        match self {
            Number::Float => DType::F32,
            Number::Wide => DType::I64,
        }
    }
}

/// `fn NAME_at(at: u32)`: element `at` of a binding of this type.
pub fn reader(name: &str, binding: u32, dtype: DType) -> String {
    let number = Number::of(dtype).wgsl();
    let half = halves::bits(&format!("{name}[at >> 1u]"), "at");
    let byte = format!("({name}[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu");
    let (element, value) = match dtype {
        DType::F32 => ("f32", format!("{name}[at]")),
        DType::F16 | DType::BF16 => ("u32", halves::number(dtype, &half)),
        DType::I64 => ("vec2<u32>", format!("{name}[at]")),
        DType::I32 => ("i32", format!("vec2<u32>(bitcast<u32>({name}[at]), bitcast<u32>({name}[at] >> 31u))")),
        DType::U8 => ("u32", format!("vec2<u32>({byte}, 0u)")),
        // Any bit makes it 1.
        DType::Bool => ("u32", format!("vec2<u32>(min({byte}, 1u), 0u)")),
        DType::F64 => panic!("bug: float64 on a GPU"),
    };
    format!(
        "@group(0) @binding({binding}) var<storage, read_write> {name}: array<{element}>;\n\
         fn {name}_at(at: u32) -> {number} {{\n    return {value};\n}}\n"
    )
}

/// `fn NAME_put(at: u32, value: f32)`: writes element `at` of a binding of this floating type, rounded once.
pub fn writer(name: &str, binding: u32, dtype: DType, halves: Halves) -> String {
    let (element, body) = match (dtype, halves.written(dtype)) {
        (DType::F32, _) => ("f32", format!("{name}[at] = value;")),
        (_, Some(own)) => (own, format!("{name}[at] = {};", halves::stored(dtype, "value"))),
        (_, None) => ("atomic<u32>", in_word(name, 2, &halves::rounded(dtype, "value"))),
    };
    format!(
        "@group(0) @binding({binding}) var<storage, read_write> {name}: array<{element}>;\n\
         fn {name}_put(at: u32, value: f32) {{\n    {body}\n}}\n"
    )
}

/// Writes the bits of element `at`, of fewer bytes than a word, whose neighbours in it belong to other threads.
pub fn in_word(binding: &str, bytes: u32, bits: &str) -> String {
    let (per, width) = (4 / bytes, 8 * bytes);
    let (word, mask) = (format!("{binding}[at >> {}u]", per.ilog2()), (1u32 << width) - 1);
    format!(
        "let shift = (at & {}u) * {width}u;\n    atomicAnd(&{word}, ~({mask}u << shift));\n    \
         atomicOr(&{word}, {bits} << shift);",
        per - 1
    )
}
