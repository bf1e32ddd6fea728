//! A slice whose disjoint parts are written by the chunks of one job.

use std::marker::PhantomData;

pub struct Parts<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` makes its caller promise that no two threads hold overlapping parts.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(whole: &'a mut [T]) -> Parts<'a, T> {
        Parts { ptr: whole.as_mut_ptr(), len: whole.len(), life: PhantomData }
    }

    /// # Safety
    /// No element of the part is in another part that is alive.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.len, "bug: a part beyond its slice");
        // SAFETY: within the slice; the caller promises that it is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
