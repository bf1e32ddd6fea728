//! Maps of each channel: batch norm by known numbers, its gradient, and an affine map, in float32. They are elementwise, with
//! operands that are spread over all dims but the channels'.

use super::Gpu;
use super::pointwise::{Buffer, Source, launch};
use super::text::Text;
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Layout;
use smallvec::SmallVec;

/// y from x and numbers of its channels, the second dim; x, dy and y lie alike, without gaps.
#[derive(Clone, Copy)]
pub struct Channels<'a> {
    pub x: Buffer<'a>,
    /// With it y is dx, and `shift` and `product` are sums over dy.
    pub dy: Option<Buffer<'a>>,
    /// Mean and variance; without them the map is affine.
    pub known: Option<[Buffer<'a>; 2]>,
    pub weight: Option<Buffer<'a>>,
    pub shift: Option<Buffer<'a>>,
    pub product: Option<Buffer<'a>>,
    pub y: Buffer<'a>,
    pub eps: f64,
}

/// y = x · weight + shift, the last two where there are any; `value` is what stands for x.
fn affine(value: &str, weight: bool, shift: bool) -> String {
    let mut text = format!(
        "fn formula(x: f32, dy: f32, mean: f32, variance: f32, weight: f32, shift: f32, product: f32, eps: f32, share: f32) \
         -> f32 {{\n    var value = {value};\n"
    );
    if weight {
        text += "    value *= weight;\n";
    }
    if shift {
        text += "    value += shift;\n";
    }
    text + "    return value;\n}\n"
}

/// The same of (x - mean) / √(variance + eps).
fn normal(weight: bool, shift: bool) -> String {
    affine("(x - mean) / sqrt(variance + eps)", weight, shift)
}

/// The gradient of that: (dy - shift / n - normal · product / n) / √(variance + eps) · weight, where shift holds Σ dy and
/// product Σ dy · normal.
fn back(weight: bool) -> String {
    let normal = "(x - mean) / sqrt(variance + eps)";
    affine(&format!("(dy - (shift + {normal} * product) * share) / sqrt(variance + eps)"), weight, false)
}

const OPERANDS: usize = 9;

/// By whether there is a weight and a shift.
static AFFINE: [Text; 4] = [
    Text::written(OPERANDS, |_| affine("x", false, false)),
    Text::written(OPERANDS, |_| affine("x", false, true)),
    Text::written(OPERANDS, |_| affine("x", true, false)),
    Text::written(OPERANDS, |_| affine("x", true, true)),
];
static NORMAL: [Text; 4] = [
    Text::written(OPERANDS, |_| normal(false, false)),
    Text::written(OPERANDS, |_| normal(false, true)),
    Text::written(OPERANDS, |_| normal(true, false)),
    Text::written(OPERANDS, |_| normal(true, true)),
];
static BACK: [Text; 2] = [Text::written(OPERANDS, |_| back(false)), Text::written(OPERANDS, |_| back(true))];

impl Channels<'_> {
    pub fn run(&self, gpu: &Gpu, op: &'static str) -> Result<()> {
        let shape = self.y.layout.shape();
        let mut strides: SmallVec<[isize; 4]> = SmallVec::from_elem(0, shape.len());
        strides[1] = 1;
        let spread = Layout::strided(shape, &strides);
        let mut sources: SmallVec<[Source; OPERANDS]> = SmallVec::new();
        sources.push(Source::Buffer(self.x));
        sources.push(self.dy.map_or(Source::Absent, Source::Buffer));
        let [mean, variance] = [0, 1].map(|i| self.known.map(|known| known[i]));
        for b in [mean, variance, self.weight, self.shift, self.product] {
            sources.push(b.map_or(Source::Absent, |b| Source::Buffer(Buffer { layout: &spread, ..b })));
        }
        let share = shape[1] as f64 / self.y.layout.numel() as f64;
        sources.extend([Source::Number(self.eps), Source::Number(share)]);
        let both = 2 * usize::from(self.weight.is_some()) + usize::from(self.shift.is_some());
        let text = match (self.dy.is_some(), self.known.is_some()) {
            (true, _) => &BACK[usize::from(self.weight.is_some())],
            (false, true) => &NORMAL[both],
            (false, false) => &AFFINE[both],
        };
        launch(gpu, op, text, DType::F32, &sources, &self.y)
    }
}
