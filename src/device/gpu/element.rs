//! WGSL that reads one element of any type as a number to compute with.

use super::halves;
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
