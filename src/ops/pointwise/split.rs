//! What an elementwise op becomes in the graph once its value was made again in a sweep, and its slope with it.

use super::{Derivative, Elementwise, Pointwise, Slope, Value, X};
use crate::device::cpu::pointwise::Kernels;
use crate::device::cpu::split;
use crate::device::formula::{Formula, MOST};
use crate::device::gpu::text::Text;
use crate::error::{Error, Result};
use crate::ops::laws::Exact;
use crate::ops::{Back, Layouts, Mask, Metas, Op, OpRef, Saves};
use crate::real::Real;
use crate::tensor::{Meta, Tensor};
use std::fmt;
use std::marker::PhantomData;

/// Its saved input is the slope. See [`Op::split`].
pub struct Split<P>(PhantomData<P>);

impl<P: Pointwise<1>> Split<P> {
    const OP: Split<P> = Split(PhantomData);
    const KERNEL: split::Split = split::Split::of::<(P, Value<1>), (P, Derivative<1, 0>)>();

    pub fn op() -> OpRef {
        OpRef::Static(const { &Split::<P>::OP })
    }
}

impl<P: Pointwise<1>> fmt::Debug for Split<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(P::NAME)
    }
}

/// dx of the slope, y and dy.
struct Scaled;

impl Formula for Scaled {
    const ARITY: usize = 3;
    const INTEGERS: bool = false;
    #[inline(always)]
    fn eval<R: Real>(x: [R; MOST]) -> R {
        x[2] * x[0]
    }
}

impl<P: Pointwise<1>> Op for Split<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        const { Elementwise::of::<P, 1>() }.infer(x, recording)
    }

    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs(needs & 1)
    }

    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }

    fn writes_inputs(&self) -> bool {
        true
    }

    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        Self::KERNEL.launch(&x[0].view(), &y[0].view());
        Ok(())
    }

    fn vjp(&self, back: &mut Back) -> Result<()> {
        const KERNELS: Kernels = Kernels::of::<Scaled>();
        const TEXT: Text = Text::of::<Scaled>();
        if back.records() {
            return Err(Error::graph(format!(
                "backward: {} was differentiated by a backward that did not come to its end; compute it again, or pass \
                 retain_graph=True to that one",
                P::NAME
            )));
        }
        let slope = back.input(0)?;
        let dy = back.dy();
        let dx =
            back.apply(Slope { name: P::NAME, kernels: &KERNELS, text: &TEXT, inputs: 1, reads: X }, &[slope, dy])?;
        back.give(0, dx);
        Ok(())
    }

    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
