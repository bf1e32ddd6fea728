//! What a kernel sees of a tensor: a pointer, a layout and an element type. Lives as long as the tensor it came from.

use crate::dtype::{DType, Element};
use crate::shape::Layout;
use std::marker::PhantomData;

/// A window on a tensor's elements. Whoever makes one holds the storage alive for `'a`, and the engine sees to it that a
/// view that is written to (a fresh output, or the target of an in-place op) is written by one op at a time.
#[derive(Clone, Copy)]
pub struct View<'a> {
    ptr: *mut u8,
    pub layout: &'a Layout,
    pub dtype: DType,
    life: PhantomData<&'a u8>,
}

// SAFETY: views are split between the pool's threads along disjoint ranges by the kernels.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// `ptr` is the address of element [0, …, 0] of a tensor of this layout and type.
    pub fn new(ptr: *mut u8, layout: &'a Layout, dtype: DType) -> View<'a> {
        View { ptr, layout, dtype, life: PhantomData }
    }

    pub fn shape(&self) -> &'a [usize] {
        self.layout.shape()
    }

    pub fn strides(&self) -> &'a [isize] {
        self.layout.strides()
    }

    pub fn numel(&self) -> usize {
        self.layout.numel()
    }

    pub fn bytes_ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub fn ptr<T: Element>(&self) -> *mut T {
        self.check::<T>();
        self.ptr.cast()
    }

    /// The elements in memory order; the layout must be dense.
    pub fn slice<T: Element>(&self) -> &'a [T] {
        self.check::<T>();
        assert!(self.layout.is_dense(), "bug: a slice of a layout with gaps");
        // SAFETY: dense and not negative-strided, so `numel` elements follow `ptr`; the type was checked.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.numel()) }
    }

    /// The elements of an output, to be written. The caller holds the only view that is used while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub fn out<T: Element>(&self) -> &'a mut [T] {
        self.check::<T>();
        assert!(self.layout.is_dense(), "bug: a slice of a layout with gaps");
        // SAFETY: as in `slice`; the engine hands an output to one kernel at a time.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast(), self.numel()) }
    }

    /// The bytes of a dense tensor.
    pub fn raw(&self) -> &'a [u8] {
        assert!(self.layout.is_dense(), "bug: a slice of a layout with gaps");
        // SAFETY: dense, so that many bytes follow `ptr`; any byte is a valid u8.
        unsafe { std::slice::from_raw_parts(self.ptr, self.numel() * self.dtype.bytes()) }
    }

    /// The bytes of an output, to be written.
    #[allow(clippy::mut_from_ref)]
    pub fn raw_out(&self) -> &'a mut [u8] {
        assert!(self.layout.is_dense(), "bug: a slice of a layout with gaps");
        // SAFETY: as in `out`.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.numel() * self.dtype.bytes()) }
    }

    /// The first element of an int64 tensor, exactly.
    pub fn first_i64(&self) -> i64 {
        assert!(self.numel() > 0, "bug: the first element of an empty tensor");
        // SAFETY: there is a first element, and `ptr` checks its type.
        unsafe { *self.ptr::<i64>() }
    }

    fn check<T: Element>(&self) {
        let same = T::DTYPE == self.dtype || (T::DTYPE == DType::U8 && self.dtype == DType::Bool);
        assert!(same, "bug: a {} tensor was read as {}", self.dtype.name(), T::DTYPE.name());
    }
}
