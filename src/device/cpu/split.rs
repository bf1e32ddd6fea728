//! A function of one number and its derivative in one pass, the latter over what they are computed from.

use super::pool;
use super::simd::{Kernel, Lanes, dispatch_f32};
use super::view::View;
use crate::device::formula::{Formula, MOST};
use crate::dtype::DType;
use crate::real::Real;

/// y = f(x), then x = f'(x), for n numbers.
#[derive(Clone, Copy)]
pub struct Split(unsafe fn(x: *mut f32, y: *mut f32, n: usize));

impl Split {
    /// The derivative is a formula of x, y and dy that does not read y.
    pub const fn of<F: Formula, D: Formula>() -> Split {
        Split(<(F, D)>::run)
    }

    /// For dense tensors of float32 in one layout.
    pub fn launch(self, x: &View, y: &View) {
        debug_assert!(x.dtype == DType::F32 && y.dtype == DType::F32 && x.layout.is_dense() && x.layout == y.layout);
        let total = x.numel();
        pool::run(total.div_ceil(CHUNK), &|i| {
            let (start, n) = (i * CHUNK, CHUNK.min(total - i * CHUNK));
            // SAFETY: each chunk of the tensors once.
            unsafe { (self.0)(x.bytes_ptr().cast::<f32>().add(start), y.bytes_ptr().cast::<f32>().add(start), n) };
        });
    }
}

/// Elements a thread takes at a time.
const CHUNK: usize = 8 * 1024;

struct Loop {
    x: *mut f32,
    y: *mut f32,
    n: usize,
}

/// The formulas stand first, so that the loop is compiled with the file that they are in.
impl<F: Formula, D: Formula> Kernel<f32> for ([(F, D); 0], Loop) {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) {
        let Loop { x, y, n } = self.1;
        let whole = n - n % L::WIDTH;
        // SAFETY: n elements behind both pointers, by the promise of the caller of a `Split`'s function.
        unsafe {
            for i in (0..whole).step_by(L::WIDTH) {
                let operand = L::load(x.add(i));
                F::eval([operand; MOST]).store(y.add(i));
                D::eval(slope_operands(operand)).store(x.add(i));
            }
            if whole < n {
                let (x, y, rest) = (x.add(whole), y.add(whole), n - whole);
                let operand = L::load_first(x, rest);
                F::eval([operand; MOST]).store_first(y, rest);
                D::eval(slope_operands(operand)).store_first(x, rest);
            }
        }
    }
}

/// x, y and dy: times a dy of 1 the derivative is the slope, bit for bit.
#[inline(always)]
fn slope_operands<R: Real>(x: R) -> [R; MOST] {
    let mut operands = [R::lit(f64::NAN); MOST];
    (operands[0], operands[2]) = (x, R::lit(1.0));
    operands
}

trait Run {
    unsafe fn run(x: *mut f32, y: *mut f32, n: usize);
}

impl<F: Formula, D: Formula> Run for (F, D) {
    unsafe fn run(x: *mut f32, y: *mut f32, n: usize) {
        dispatch_f32(([] as [(F, D); 0], Loop { x, y, n }));
    }
}
