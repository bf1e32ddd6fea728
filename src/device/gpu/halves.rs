//! 16-bit floats in kernels: which of them the adapter has itself.
//!
//! They are stored in 16 bits everywhere, computed in float32 and rounded once, to nearest even, as on the CPU. What an adapter
//! has decides how a thread writes one of them, and what lies in the memory of a group while matrices are multiplied.

use crate::dtype::DType;

/// What of 16 bits kernels may use: `f16`, and the integers that bfloat16 is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    pub f16: bool,
    pub i16: bool,
}

impl Halves {
    /// The type of bindings through which a thread writes one element; `None` where two of them share a word.
    pub fn written(self, dtype: DType) -> Option<&'static str> {
        match dtype {
            DType::F16 if self.f16 => Some("f16"),
            DType::BF16 if self.i16 => Some("u16"),
            _ => None,
        }
    }

    /// What tells texts for different adapters apart.
    pub fn key(self) -> u32 {
        u32::from(self.f16) << 1 | u32::from(self.i16)
    }

    /// The lines in front of a text that may name these types.
    pub fn enabled(self) -> String {
        let line = |has: bool, name: &str| if has { format!("enable {name};\n") } else { String::new() };
        line(self.f16, "f16") + &line(self.i16, "wgpu_int16")
    }
}

/// The bits of element `at` of a binding in words of two.
pub fn bits(word: &str, at: &str) -> String {
    format!("({word} >> (({at} & 1u) * 16u)) & 0xffffu")
}

/// A half by its bits, as an f32.
pub fn number(dtype: DType, bits: &str) -> String {
    if dtype == DType::F16 { format!("s_from_f16({bits})") } else { format!("s_from_bf16({bits})") }
}

/// The bits of the half next to an f32; the upper ones are 0.
pub fn rounded(dtype: DType, value: &str) -> String {
    if dtype == DType::F16 { format!("s_to_f16({value})") } else { format!("s_to_bf16({value})") }
}

/// An f32 as what `Halves::written` names. A driver may round an f16 either way, so it is given one that is exact.
pub fn stored(dtype: DType, value: &str) -> String {
    let bits = rounded(dtype, value);
    if dtype == DType::F16 { format!("f16({})", number(dtype, &bits)) } else { format!("u16({bits})") }
}
