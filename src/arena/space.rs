//! Memory spaces: the host's, and one for each GPU; and what the arena asks of a GPU's driver.

use crate::error::Result;

/// Every offset and size in a slab is a multiple of this: the strictest alignment that a GPU asks of a binding.
pub const GRAIN: usize = 256;
/// The first slab of a GPU, and the most that a later one adds beyond what is asked for.
pub(super) const FIRST_SLAB: usize = 16 << 20;
pub(super) const LARGEST_STEP: usize = 512 << 20;
/// The host, and sixteen GPUs.
pub const SPACES: usize = 17;

const NAMES: [&str; SPACES] = [
    "cpu", "gpu", "gpu:1", "gpu:2", "gpu:3", "gpu:4", "gpu:5", "gpu:6", "gpu:7", "gpu:8", "gpu:9", "gpu:10", "gpu:11",
    "gpu:12", "gpu:13", "gpu:14", "gpu:15",
];

/// Which memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Space(u8);

impl Space {
    pub const HOST: Space = Space(0);

    pub const fn gpu(number: u8) -> Space {
        assert!((number as usize) < SPACES - 1);
        Space(number + 1)
    }
    pub fn from_index(index: usize) -> Space {
        assert!(index < SPACES);
        Space(index as u8)
    }
    pub fn all() -> impl Iterator<Item = Space> {
        (0..SPACES).map(Space::from_index)
    }
    pub const fn index(self) -> usize {
        self.0 as usize
    }
    /// The name of the device whose memory it is.
    pub const fn name(self) -> &'static str {
        NAMES[self.0 as usize]
    }
}

/// Where a block lies in the memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub slab: u32,
    pub offset: usize,
    pub bytes: usize,
}

/// Where blocks of a forecast are: a slab that no kernel sees.
pub(super) const PAPER_SLAB: u32 = u32::MAX;

/// A slab as its driver made it.
pub struct Slab {
    pub number: u32,
    pub bytes: usize,
}

/// What the arena of a GPU asks of its driver.
#[derive(Clone, Copy)]
pub struct Slabs {
    /// Makes a slab of at least so many bytes. Called under the arena's lock: it must not ask for memory itself.
    pub make: fn(Space, usize) -> Result<Slab>,
    pub largest_slab: usize,
    /// What one binding can show.
    pub largest_block: usize,
}
