//! Plans by the block: how many of the repeated blocks make which choice.
//!
//! A choice of one block is one of all; going over to the next one saves bytes at some cost in each of them. All such steps of
//! all blocks make a list, the cheapest byte first, and a plan is so much of the list as a budget wants.

use super::block::{Block, Choice, WORK};
use super::problem::Problem;
use super::repeat::{self, Class, Repeat};
use super::simulate::State;
use rustc_hash::FxHashSet;

/// What one repeat has to offer.
struct Offer {
    choices: Vec<Choice>,
    /// The first gaps of the values of each block, where they correspond to those of the block that was solved.
    gaps: Vec<Vec<Option<u32>>>,
}

/// One block goes over to its next choice.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    rate: f64,
    offer: u32,
    level: u32,
    block: u32,
}

pub struct Menu {
    offers: Vec<Offer>,
    steps: Vec<Step>,
}

impl Menu {
    /// For all repeats, with so many of their blocks taken as one. `None` where that leaves nothing to choose.
    fn of(problem: &Problem, repeats: &[Repeat], rows: usize) -> Option<Menu> {
        let script = &problem.script;
        let mut released = vec![u32::MAX; script.bytes.len()];
        let mut last = vec![0; script.bytes.len()];
        for p in 0..script.ops {
            script.releases.get(p).iter().for_each(|&v| released[v as usize] = p as u32);
            if script.forward[p] {
                script.reads.get(p).iter().for_each(|&v| last[v as usize] = p as u32);
            }
        }
        let work = WORK / repeats.len().max(1);
        let mut menu = Menu { offers: vec![], steps: vec![] };
        for repeat in repeats.iter().filter(|r| r.count() >= rows) {
            let Some(block) = Block::of(problem, repeat, rows, &released, &last, work) else { continue };
            let (choices, offer) = (block.choices(), menu.offers.len() as u32);
            let gaps = first_gaps(problem, repeat, rows);
            for (level, pair) in choices.windows(2).enumerate() {
                let rate = (pair[1].cost - pair[0].cost) / (pair[0].held - pair[1].held) as f64;
                let step = |block| Step { rate, offer, level: level as u32 + 1, block };
                menu.steps.extend((0..gaps.len() as u32).map(step));
            }
            menu.offers.push(Offer { choices, gaps });
        }
        menu.steps.sort_by(|a, b| a.rate.total_cmp(&b.rate).then(a.level.cmp(&b.level)).then(a.offer.cmp(&b.offer)));
        (!menu.steps.is_empty()).then_some(menu)
    }

    /// Menus of blocks by themselves, and of some taken as one, which then need not hand on all that they do.
    pub fn all(problem: &Problem, rows: &[usize]) -> Vec<Menu> {
        let repeats = repeat::find(problem);
        rows.iter().filter_map(|&rows| Menu::of(problem, &repeats, rows)).collect()
    }

    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The states after so many steps; of equal steps of a repeat those of its first blocks come first, or of its last ones.
    pub fn states(&self, problem: &Problem, steps: usize, last_first: bool) -> Vec<State> {
        let mut levels: Vec<Vec<u32>> = self.offers.iter().map(|o| vec![0; o.gaps.len()]).collect();
        for step in &self.steps[..steps] {
            let levels = &mut levels[step.offer as usize];
            let block = step.block as usize;
            let block = if last_first { levels.len() - 1 - block } else { block };
            levels[block] = levels[block].max(step.level);
        }
        let mut states = problem.start.clone();
        for (offer, levels) in self.offers.iter().zip(&levels) {
            for (gaps, level) in offer.gaps.iter().zip(levels) {
                let drop = offer.choices[*level as usize].drop;
                for (i, g) in gaps.iter().enumerate() {
                    match *g {
                        Some(g) if drop >> i & 1 == 1 && problem.free[g as usize] => states[g as usize] = State::LATE,
                        _ => {}
                    }
                }
            }
        }
        states
    }
}

/// For each `rows` blocks, the first gap of each of their values. Where blocks do not come out even, the first are fewer.
fn first_gaps(problem: &Problem, repeat: &Repeat, rows: usize) -> Vec<Vec<Option<u32>>> {
    let count = repeat.count();
    let middle: FxHashSet<Class> = repeat.gaps(problem, count / 2).into_iter().map(|(class, _)| class).collect();
    let width = repeat.values(problem, 0).len();
    let mut all = vec![];
    for end in (count % rows..=count).step_by(rows).filter(|end| *end > 0) {
        let mut gaps = vec![None; width * rows];
        for block in end.saturating_sub(rows)..end {
            let row = rows - (end - block);
            for (class, g) in repeat.gaps(problem, block) {
                if class.nth == 0 && middle.contains(&class) {
                    gaps[row * width + class.value as usize] = Some(g);
                }
            }
        }
        all.push(gaps);
    }
    all
}
