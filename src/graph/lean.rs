//! Replay in the least memory: depth first, holding no more than the path it is on. What was let go is made again when it is
//! wanted again. The rules, and their simulation, are in `plan::simulate`.

use super::replay;
use super::resident::{self, Key};
use super::store::NodeId;
use crate::error::Result;
use crate::tensor::Tensor;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// A forward on the way down: what it reads, and what was made for it so far.
struct Frame {
    id: NodeId,
    reads: SmallVec<[Key; 4]>,
    next: usize,
    /// Reads that were there, so that no pressure drops them meanwhile.
    found: Vec<Tensor>,
    made: Vec<Key>,
}

impl Frame {
    fn of(id: NodeId) -> Frame {
        Frame { id, reads: resident::reads(id), next: 0, found: vec![], made: vec![] }
    }
}

pub fn bring_back(visitor: NodeId, wanted: &[Key], held: &mut Vec<Tensor>) -> Result<()> {
    let mut wanted: SmallVec<[Key; 4]> = wanted.iter().copied().collect();
    wanted.sort_unstable();
    // What the frames hold.
    let mut passing: FxHashMap<Key, Tensor> = FxHashMap::default();
    for &key in &wanted {
        if resident::find(key).is_some() {
            continue;
        }
        let mut frames = vec![Frame::of(key.0)];
        while let Some(frame) = frames.last_mut() {
            while let Some(read) = frame.reads.get(frame.next) {
                match passing.get(read).cloned().or_else(|| replay::found(*read)) {
                    Some(tensor) => frame.found.push(tensor),
                    None => break,
                }
                frame.next += 1;
            }
            if let Some(read) = frame.reads.get(frame.next) {
                let below = Frame::of(read.0);
                frames.push(below);
                continue;
            }
            let id = frame.id;
            let outputs = replay::run_again(replay::recipe(id)?, |key| passing.get(&key).cloned())?;
            let done = frames.pop().expect("bug: a replay without its frame");
            done.made.iter().for_each(|key| {
                passing.remove(key);
            });
            drop(done);
            for (k, value) in outputs.into_iter().enumerate() {
                let key = (id, k as u32);
                if passing.contains_key(&key) || resident::find(key).is_some() {
                    continue;
                }
                let is_wanted = wanted.contains(&key);
                if is_wanted || resident::keeps(key, visitor) {
                    replay::restore(key, &value);
                    held.extend(is_wanted.then_some(value));
                } else if let Some(user) = frames.last_mut().filter(|user| user.reads.contains(&key)) {
                    user.made.push(key);
                    passing.insert(key, value);
                }
            }
        }
    }
    Ok(())
}
