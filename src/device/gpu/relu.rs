//! ReLU with its bits, and the way back.

use super::Gpu;
use super::pointwise::{Buffer, Source, Target, step};
use super::text::Text;
use crate::dtype::DType;
use crate::error::Result;

static RELU: Text = Text::written(1, |_| {
    "fn formula(x: f32) -> f32 {\n    return select(0.0f, x, x > 0.0f || m_is_nan(x));\n}\n".into()
});

static IS_ON: Text = Text::written(1, |_| {
    "fn formula(x: f32) -> f32 {\n    return select(0.0f, 1.0f, x > 0.0f || m_is_nan(x));\n}\n".into()
});

/// The gradient where a bit is set, else 0.
static KEPT: Text = Text::written(2, |_| {
    "fn formula(dy: f32, bit: f32) -> f32 {\n    return select(dy, 0.0f, bit == 0.0f);\n}\n".into()
});

/// x and y lie alike, without gaps; the mask begins at its storage's start.
pub fn relu(gpu: &Gpu, x: &Buffer, y: &Buffer, mask: Option<&Buffer>) -> Result<()> {
    let x = [Source::Buffer(*x)];
    let values = step("relu", &RELU, DType::F32, &x, &Target::Elements(*y))?;
    let bits = match mask {
        Some(mask) => step("relu", &IS_ON, DType::F32, &x, &Target::Bits { of: *y, to: *mask })?,
        None => None,
    };
    gpu.hold("relu", values.into_iter().chain(bits).collect())
}

/// dx = dy where the bit is set or, where `mask` is the float result, that is not 0; else 0.
pub fn keep(gpu: &Gpu, dy: &Buffer, mask: &Buffer, dx: &Buffer) -> Result<()> {
    let kept = if mask.dtype == DType::U8 { Source::Bits(*mask) } else { Source::Buffer(*mask) };
    let held = step("relu", &KEPT, DType::F32, &[Source::Buffer(*dy), kept], &Target::Elements(*dx))?;
    gpu.hold("relu", held.into_iter().collect())
}
