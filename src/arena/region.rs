//! Large pieces of address space from the system: huge-page aligned where the system has huge pages, never given back.

use super::free_list::GRAIN;
use std::alloc::Layout;
use std::ptr::NonNull;

const HUGE_PAGE: usize = 2 << 20;

pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

impl Region {
    /// Reserves at least `bytes`; pages are committed by the system when first touched.
    pub fn reserve(bytes: usize) -> Option<Region> {
        let bytes = bytes.checked_next_multiple_of(HUGE_PAGE)?;
        map(bytes).map(|base| Region { base, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.bytes);
        // SAFETY: within the region.
        unsafe { self.base.add(offset) }
    }
}

#[cfg(unix)]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let wanted = bytes.checked_add(HUGE_PAGE)?;
    // SAFETY: an anonymous private mapping at an address of the system's choice; the result is checked.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            wanted,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    let start = start as usize;
    let base = start.next_multiple_of(HUGE_PAGE);
    // SAFETY: both pieces lie inside the mapping just made, before and after the aligned part.
    unsafe {
        if base > start {
            libc::munmap(start as *mut _, base - start);
        }
        let tail = start + wanted - (base + bytes);
        if tail > 0 {
            libc::munmap((base + bytes) as *mut _, tail);
        }
        #[cfg(target_os = "linux")]
        libc::madvise(base as *mut _, bytes, libc::MADV_HUGEPAGE);
    }
    NonNull::new(base as *mut u8)
}

/// Addresses that nobody will touch: for counting what a step would need. No memory is committed.
#[cfg(unix)]
pub fn paper_alloc(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: an anonymous private mapping at an address of the system's choice; the result is checked.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

#[cfg(unix)]
pub fn paper_free(ptr: NonNull<u8>, bytes: usize) {
    // SAFETY: mapped by `paper_alloc` with this size.
    unsafe { libc::munmap(ptr.as_ptr().cast(), bytes) };
}

#[cfg(not(unix))]
pub use {system_alloc as paper_alloc, system_free as paper_free};

#[cfg(not(unix))]
fn map(bytes: usize) -> Option<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes, HUGE_PAGE).ok()?;
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { std::alloc::alloc(layout) })
}

/// One block straight from the system allocator.
pub fn system_alloc(bytes: usize) -> Option<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes, GRAIN).ok()?;
    // SAFETY: `charge` never gives zero bytes.
    NonNull::new(unsafe { std::alloc::alloc(layout) })
}

pub fn system_free(ptr: NonNull<u8>, bytes: usize) {
    let layout = Layout::from_size_align(bytes, GRAIN).expect("bug: a block of impossible size");
    // SAFETY: allocated by `system_alloc` with this very layout.
    unsafe { std::alloc::dealloc(ptr.as_ptr(), layout) };
}
