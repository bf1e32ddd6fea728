//! What a plan does before an op, done: values dropped, and values made again ahead of their use.

use super::replay::{self, Held};
use super::resident::{self, Key};
use crate::arena::{self, Context};
use crate::error::Result;

#[derive(Clone, Copy)]
pub enum Action<V> {
    Drop(V),
    /// The maker of the value runs again; all its outputs that were away stay until they are dropped.
    Make(V),
}

/// Does it all, in order; `held` has what was made again and no saved slot waits for. Errors when something made again does not
/// fit: the budget's policy then goes on alone.
pub fn perform(actions: &[Action<Key>], held: &mut Held) -> Result<()> {
    let (before, _engine) = (Context::get(), arena::by_engine());
    let result = actions.iter().try_for_each(|action| match *action {
        Action::Drop(key) => {
            if held.remove(&key).is_none() {
                resident::drop_value(key);
            }
            Ok(())
        }
        Action::Make(key) => make(key, held),
    });
    before.set();
    result
}

fn make(key: Key, held: &mut Held) -> Result<()> {
    let id = key.0;
    let outputs = replay::outputs(id, held)?;
    for (k, value) in outputs.into_iter().enumerate() {
        let key = (id, k as u32);
        if held.contains_key(&key) || resident::find(key).is_some() {
            continue;
        }
        if resident::awaited(key) {
            replay::restore(key, &value);
        } else {
            held.insert(key, value);
        }
    }
    Ok(())
}

/// Lets go of all that only the plan held.
pub fn release(held: &mut Held) {
    let _engine = arena::by_engine();
    held.clear();
}
