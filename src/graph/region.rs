//! Checkpointed regions: what is recorded inside is dropped at the end of the region, and made again when the sweep comes.

use super::resident::{self, Key};
use super::session;
use super::store::NodeId;
use crate::arena;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;

/// A call of `checkpoint`.
pub struct Region {
    outer: Option<Arc<Region>>,
    made: Mutex<Vec<Key>>,
}

thread_local! {
    /// The innermost region of this thread.
    static CURRENT: RefCell<Option<Arc<Region>>> = const { RefCell::new(None) };
}

pub fn current() -> Option<Arc<Region>> {
    CURRENT.with_borrow(Clone::clone)
}

impl Region {
    pub fn note(&self, id: NodeId, outputs: usize) {
        self.made.lock().extend((0..outputs).map(|k| (id, k as u32)));
    }
}

/// What the thread was doing before a region began.
pub struct Entered {
    tracked: bool,
    region: Arc<Region>,
}

/// Begins a region on this thread.
pub fn enter() -> Entered {
    let region = Arc::new(Region { outer: current(), made: Mutex::default() });
    CURRENT.set(Some(region.clone()));
    Entered { tracked: resident::set_tracking(true), region }
}

impl Entered {
    /// Ends the region. What it made and only saved slots hold is dropped, unless it ended in an error.
    pub fn leave(self, drop_values: bool) {
        CURRENT.set(self.region.outer.clone());
        resident::set_tracking(self.tracked);
        let made = std::mem::take(&mut *self.region.made.lock());
        if let Some(outer) = &self.region.outer {
            outer.made.lock().extend(made.iter().copied());
        }
        // A plan knows better what to drop.
        if drop_values && !session::planning() {
            let _engine = arena::by_engine();
            for key in made {
                resident::drop_value(key);
            }
        }
    }
}

/// True when `inner` is `outer` or lies inside it. No region encloses every region.
pub fn encloses(outer: &Option<Arc<Region>>, inner: &Option<Arc<Region>>) -> bool {
    let Some(outer) = outer else { return true };
    let mut at = inner.as_ref();
    while let Some(region) = at {
        if Arc::ptr_eq(region, outer) {
            return true;
        }
        at = region.outer.as_ref();
    }
    false
}
