//! Plans that are lists of steps, which say what states of gaps cannot: that a value goes in the middle of a gap, comes back before
//! it is needed, or that of two values the later one is made again first.

use super::simulate::{Outcome, Script};
use super::tape::ValueId;

/// What is done before an op begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub before: u32,
    pub value: ValueId,
    /// The maker of the value runs again, and all of its outputs that were away are there. Else the value is dropped.
    pub make: bool,
}

/// Values made again after their release are dropped after the last step that reads them, if they are not before.
pub fn drop_leftovers(script: &Script, steps: &mut Vec<Step>) {
    let mut released = vec![usize::MAX; script.bytes.len()];
    for p in 0..script.ops {
        script.releases.get(p).iter().for_each(|&v| released[v as usize] = p);
    }
    for v in 0..script.bytes.len() as u32 {
        let maker = |step: &Step| script.maker[step.value.0 as usize] as usize;
        let dropped = steps.iter().rposition(|s| !s.make && s.value.0 == v).map_or(0, |i| i + 1);
        let makes =
            |s: &Step| s.make && script.makes.get(maker(s)).contains(&v) && s.before as usize > released[v as usize];
        let Some(made) = steps[dropped..].iter().position(makes).map(|i| dropped + i) else { continue };
        let reads = |s: &Step| s.make && script.reads.get(maker(s)).contains(&v);
        let last = steps[made..].iter().rposition(reads).map_or(made, |i| made + i);
        steps.insert(last + 1, Step { before: steps[last].before, value: ValueId(v), make: false });
    }
}

/// What a list of steps does, to the byte. `None` where it cannot be followed: it drops what must stay or is not there, makes a
/// value from what is away or when its maker is gone, or leaves a visit without what it reads.
pub fn follow(script: &Script, steps: &[Step]) -> Option<Outcome> {
    let mut outcome = Outcome { peak: script.base as u64, peak_op: 0, recompute: 0.0, replays: 0, stopped: false };
    // Values there that would not be, and the other way round; each from its steps alone.
    let (mut there, mut usual) = (vec![false; script.bytes.len()], vec![false; script.bytes.len()]);
    let mut steps = steps.iter().peekable();
    for p in 0..script.ops {
        let bytes = |v: u32| script.bytes[v as usize];
        let mut live = script.level[p];
        for v in 0..there.len() as u32 {
            live += bytes(v) * (i64::from(there[v as usize]) - i64::from(usual[v as usize]));
        }
        let mut high = 0;
        while let Some(step) = steps.next_if(|s| s.before as usize == p) {
            let v = step.value.0;
            if !step.make {
                let may_go = !usual[v as usize] || script.gaps.at(step.value, p).is_some();
                if !may_go || !std::mem::take(&mut there[v as usize]) {
                    return None;
                }
                live -= bytes(v);
                continue;
            }
            let f = script.maker[v as usize] as usize;
            let all_there = script.reads.get(f).iter().all(|&w| there[w as usize]);
            if !script.may_run(f, p) || !all_there {
                return None;
            }
            high = high.max(live + script.rise[f]);
            live += script.net[f];
            outcome.recompute += script.cost[f];
            outcome.replays += 1;
            for &w in script.makes.get(f) {
                live += if std::mem::replace(&mut there[w as usize], true) { 0 } else { bytes(w) };
            }
        }
        if !script.forward[p] && script.reads.get(p).iter().any(|&v| !there[v as usize]) {
            return None;
        }
        high = high.max(live + script.high[p] - script.level[p]);
        if high as u64 > outcome.peak {
            (outcome.peak, outcome.peak_op) = (high as u64, p as u32);
        }
        for (list, state) in [(script.makes.get(p), true), (script.releases.get(p), false)] {
            for &v in list {
                (there[v as usize], usual[v as usize]) = (state, state);
            }
        }
    }
    // Steps in the wrong order, or for ops that are not there.
    steps.next().is_none().then_some(outcome)
}
