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

/// While on, what comes and goes is marked as the engine's doing. Returns what it was.
pub fn by_engine(on: bool) -> bool {
    ENGINE.swap(on, Relaxed)
}

impl Deltas {
    pub fn push(&mut self, delta: impl FnOnce(bool) -> Delta) {
        if let Some(list) = &mut self.list {
            list.push(delta(ENGINE.load(Relaxed)));
        }
    }
}
