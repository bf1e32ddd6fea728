//! Large blocks in huge pages, as the engine's arena has them: what a kernel reads is then found at the same cost.

use std::alloc::{GlobalAlloc, Layout, System};

pub struct HugePages;

const PAGE: usize = 2 << 20;

fn widened(layout: Layout) -> Layout {
    if layout.size() < PAGE {
        layout
    } else {
        layout.align_to(PAGE).expect("a size that the system can allocate").pad_to_align()
    }
}

// SAFETY: the system's allocator, with sizes and alignments that are a function of the layout alone.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let layout = widened(layout);
        // SAFETY: the caller's promise.
        let block = unsafe { System.alloc(layout) };
        #[cfg(target_os = "linux")]
        if layout.size() >= PAGE && !block.is_null() {
            // SAFETY: whole pages of a fresh block; advice changes no contents.
            unsafe { libc::madvise(block.cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as it was allocated.
        unsafe { System.dealloc(block, widened(layout)) };
    }
}
