//! The stream of bytes that come and go, for whoever takes a step down as a tape.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// One block's coming or going. `engine` marks what dropping and replaying did: a step without a budget has none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delta {
    Alloc {
        id: u32,
        bytes: u64,
        engine: bool,
    },
    Free {
        id: u32,
        bytes: u64,
        engine: bool,
        /// It had a role that outlives steps.
        lasting: bool,
    },
    /// The block now holds this value of the tape.
    Holds {
        id: u32,
        value: u32,
    },
}

#[derive(Default)]
pub(super) struct Deltas {
    pub list: Option<Vec<Delta>>,
}

static ENGINE: AtomicBool = AtomicBool::new(false);

/// What comes and goes is marked as the engine's doing until this is dropped.
pub struct ByEngine {
    before: bool,
}

pub fn by_engine() -> ByEngine {
    ByEngine { before: ENGINE.swap(true, Relaxed) }
}

impl Drop for ByEngine {
    fn drop(&mut self) {
        ENGINE.store(self.before, Relaxed);
    }
}

impl Deltas {
    pub fn push(&mut self, delta: impl FnOnce(bool) -> Delta) {
        if let Some(list) = &mut self.list {
            list.push(delta(ENGINE.load(Relaxed)));
        }
    }
}
