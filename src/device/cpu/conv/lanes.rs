//! What the convolution kernels share over lanes: the width of a panel, and parts of a register.

use super::Float;
use crate::device::cpu::simd::{Kernel, Lanes};

/// Channels of a panel: two registers, or four of NEON's. Loops over eight lanes of one are left to the compiler to vectorise.
#[inline(always)]
pub(super) const fn panel<L: Lanes>() -> usize {
    match L::WIDTH {
        1 => 8,
        4 => 16,
        width => 2 * width,
    }
}

/// There are 32 registers with AVX-512 and NEON, and 16 with AVX2.
#[inline(always)]
pub(super) const fn has_32_registers<L: Lanes>() -> bool {
    matches!(L::WIDTH, 4 | 16)
}

/// No panel is wider.
pub(super) const WIDEST: usize = 32;

/// What a panel with so many channels is padded to.
#[inline(always)]
pub(super) fn padded<L: Lanes>(channels: usize) -> usize {
    channels.next_multiple_of(unit::<L>())
}

/// A panel with fewer channels is padded to a multiple of this.
#[inline(always)]
const fn unit<L: Lanes>() -> usize {
    if L::WIDTH == 1 { 8 } else { L::WIDTH }
}

struct Widths;

impl<E> Kernel<E> for Widths {
    type Out = (usize, usize);
    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) -> (usize, usize) {
        (panel::<L>(), unit::<L>())
    }
}

/// The channels of a panel at the level of this process, and what a narrower one is padded to a multiple of.
pub(super) fn widths<E: Float>() -> (usize, usize) {
    E::dispatch(Widths)
}

/// a · b + c. Lanes of one do not fuse on x86, where that would be a call at the plain level.
#[inline(always)]
pub(super) fn multiply_add<L: Lanes>(a: L, b: L, c: L) -> L {
    if L::WIDTH == 1 && cfg!(target_arch = "x86_64") { a * b + c } else { a.mul_add(b, c) }
}

/// Loads what exists of a register that begins at lane `first` of `count` lanes.
///
/// # Safety
/// `p` is valid for reads of those.
#[inline(always)]
pub(super) unsafe fn load_some<L: Lanes>(p: *const L::Elem, count: usize, first: usize) -> L {
    // SAFETY: the caller's promise.
    unsafe { if count >= first + L::WIDTH { L::load(p) } else { L::load_first(p, count.saturating_sub(first)) } }
}

/// Stores what exists of a register that begins at lane `first` of `count` lanes.
///
/// # Safety
/// `p` is valid for writes of those.
#[inline(always)]
pub(super) unsafe fn store_some<L: Lanes>(p: *mut L::Elem, x: L, count: usize, first: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if count >= first + L::WIDTH {
            x.store(p)
        } else if count > first {
            x.store_first(p, count - first)
        }
    }
}
