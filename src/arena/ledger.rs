//! The pure bookkeeper of block events: what is alive, whose it is, and the most there has ever been.
//!
//! Knows no memory and no lock. Law: at every event the categories sum to the live bytes.

use super::names::Name;
use super::trace::Tracer;

/// What a block is for. A block is re-tagged when its role changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Category {
    Parameter,
    Buffer,
    Gradient,
    Optimizer,
    Input,
    /// Alive because a later vjp needs it, and none of the above.
    Activation,
    Temporary,
    Workspace,
}

impl Category {
    pub const ALL: [Category; 8] = [
        Category::Parameter,
        Category::Buffer,
        Category::Gradient,
        Category::Optimizer,
        Category::Input,
        Category::Activation,
        Category::Temporary,
        Category::Workspace,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Category::Parameter => "parameter",
            Category::Buffer => "buffer",
            Category::Gradient => "gradient",
            Category::Optimizer => "optimizer",
            Category::Input => "input",
            Category::Activation => "activation",
            Category::Temporary => "temporary",
            Category::Workspace => "workspace",
        }
    }

    /// Roles that outlive a step: what takes one of them is there in later steps as well.
    pub fn lasts(self) -> bool {
        matches!(self, Category::Parameter | Category::Buffer | Category::Optimizer)
    }
    pub fn from_name(name: &str) -> Option<Category> {
        Category::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// Whose a block is. Module path and source line are interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    pub category: Category,
    pub op: &'static str,
    pub module: Name,
    pub line: Name,
}

/// A live block as the ledger sees it. `bytes` is what the arena handed out, rounding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub bytes: usize,
    pub tag: Tag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Alloc { id: u32, record: Record },
    Free { id: u32 },
    Retag { id: u32, category: Category },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub live: usize,
    pub peak: usize,
    pub blocks: usize,
    pub by_category: [usize; 8],
    /// The categories at the moment of the peak; they sum to `peak`.
    pub peak_by_category: [usize; 8],
    /// Allocations since the process began, and their bytes.
    pub allocations: u64,
    pub allocated: u64,
}

/// Everything alive at one moment.
pub type Snapshot = Vec<(u32, Record)>;

#[derive(Default)]
pub struct Ledger {
    stats: Stats,
    records: Vec<Option<Record>>,
    vacant: Vec<u32>,
    recording: Option<Recording>,
    /// Who is told of each event while a capture runs.
    pub(super) tracer: Option<Tracer>,
}

/// The events since `record_start`, and what was alive then: enough to rebuild every moment in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    pub start: Snapshot,
    pub events: Vec<Event>,
}

impl Ledger {
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    pub fn alloc(&mut self, bytes: usize, tag: Tag) -> u32 {
        let record = Record { bytes, tag };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.records.push(None);
            (self.records.len() - 1) as u32
        });
        self.records[id as usize] = Some(record);
        let s = &mut self.stats;
        s.live += bytes;
        s.blocks += 1;
        s.allocations += 1;
        s.allocated += bytes as u64;
        s.by_category[tag.category as usize] += bytes;
        self.note_peak();
        self.log(Event::Alloc { id, record });
        if let Some(tracer) = &self.tracer {
            tracer.alloc(id, &record);
        }
        id
    }

    pub fn free(&mut self, id: u32) {
        let record = self.records[id as usize].take().expect("bug: a block was freed twice");
        self.vacant.push(id);
        let s = &mut self.stats;
        s.live -= record.bytes;
        s.blocks -= 1;
        s.by_category[record.tag.category as usize] -= record.bytes;
        self.log(Event::Free { id });
        if let Some(tracer) = &self.tracer {
            tracer.free(id, &record);
        }
    }

    /// Seconds that so many blocks take of a ledger of its own: each is entered, re-tagged and struck out, a hundred later.
    pub fn seconds(pairs: usize, tag: Tag) -> f64 {
        let mut ledger = Ledger::default();
        let mut alive = std::collections::VecDeque::with_capacity(101);
        let start = std::time::Instant::now();
        for i in 0..pairs {
            let id = ledger.alloc(64 * (i % 100), tag);
            ledger.retag(id, Category::ALL[i % 2]);
            alive.push_back(id);
            if alive.len() > 100 {
                ledger.free(alive.pop_front().expect("bug: no block is alive"));
            }
        }
        start.elapsed().as_secs_f64()
    }

    /// Changes a block's role; returns the one it had.
    pub fn retag(&mut self, id: u32, category: Category) -> Category {
        let record = self.records[id as usize].as_mut().expect("bug: a freed block was re-tagged");
        let before = std::mem::replace(&mut record.tag.category, category);
        if before != category {
            let after = *record;
            let bytes = record.bytes;
            self.stats.by_category[before as usize] -= bytes;
            self.stats.by_category[category as usize] += bytes;
            self.log(Event::Retag { id, category });
            if let Some(tracer) = &self.tracer {
                tracer.retag(id, &after, before);
            }
        }
        before
    }

    pub fn tag(&self, id: u32) -> Tag {
        self.records[id as usize].expect("bug: a freed block was asked for its role").tag
    }

    /// Says which module a block belongs to, where that was not known when it was made: a parameter is made before the model.
    pub fn place(&mut self, id: u32, module: Name) {
        let record = self.records[id as usize].as_mut().expect("bug: a freed block was placed");
        record.tag.module = module;
        let record = *record;
        if let Some(tracer) = &self.tracer {
            tracer.place(id, &record);
        }
    }

    pub fn module(&self, id: u32) -> Name {
        self.records[id as usize].expect("bug: a freed block was asked for its module").tag.module
    }

    pub fn category(&self, id: u32) -> Category {
        self.tag(id).category
    }

    /// True when the block is alive in a role that outlives steps.
    pub fn lasts(&self, id: u32) -> bool {
        self.records.get(id as usize).copied().flatten().is_some_and(|record| record.tag.category.lasts())
    }

    pub fn snapshot(&self) -> Snapshot {
        self.records.iter().enumerate().filter_map(|(id, r)| r.map(|r| (id as u32, r))).collect()
    }

    pub fn reset_peak(&mut self) {
        self.stats.peak = self.stats.live;
        self.stats.peak_by_category = self.stats.by_category;
    }

    pub fn restore_peak(&mut self, before: &Stats) {
        self.stats.peak = before.peak;
        self.stats.peak_by_category = before.peak_by_category;
        self.note_peak();
    }

    pub fn recording(&self) -> bool {
        self.recording.is_some()
    }

    pub fn record_start(&mut self) {
        self.recording = Some(Recording { start: self.snapshot(), events: Vec::new() });
    }

    pub fn record_stop(&mut self) -> Option<Recording> {
        self.recording.take()
    }

    fn note_peak(&mut self) {
        if self.stats.live > self.stats.peak {
            self.stats.peak = self.stats.live;
            self.stats.peak_by_category = self.stats.by_category;
        }
    }

    fn log(&mut self, event: Event) {
        if let Some(recording) = &mut self.recording {
            recording.events.push(event);
        }
    }
}

impl Recording {
    /// What was alive at the peak of the recording: the first moment at which the live bytes were greatest.
    pub fn at_peak(&self) -> Snapshot {
        let mut live: usize = self.start.iter().map(|(_, r)| r.bytes).sum();
        let mut sizes: std::collections::HashMap<u32, usize> =
            self.start.iter().map(|(id, r)| (*id, r.bytes)).collect();
        let (mut peak, mut peak_at) = (live, 0);
        for (i, event) in self.events.iter().enumerate() {
            match event {
                Event::Alloc { id, record } => {
                    live += record.bytes;
                    sizes.insert(*id, record.bytes);
                    if live > peak {
                        (peak, peak_at) = (live, i + 1);
                    }
                }
                Event::Free { id } => live -= sizes.remove(id).unwrap_or(0),
                Event::Retag { .. } => {}
            }
        }
        let mut alive: std::collections::BTreeMap<u32, Record> = self.start.iter().copied().collect();
        for event in &self.events[..peak_at] {
            match event {
                Event::Alloc { id, record } => {
                    alive.insert(*id, *record);
                }
                Event::Free { id } => {
                    alive.remove(id);
                }
                Event::Retag { id, category } => {
                    if let Some(record) = alive.get_mut(id) {
                        record.tag.category = *category;
                    }
                }
            }
        }
        alive.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(category: Category) -> Tag {
        Tag { category, op: "test", module: Name::NONE, line: Name::NONE }
    }

    /// A plain model: a list of live blocks, summed afresh at every event.
    #[test]
    fn random_programs_agree_with_a_plain_model() {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut random = move |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..200 {
            let mut ledger = Ledger::default();
            let mut model: Vec<(u32, usize, Category)> = Vec::new();
            let (mut peak, mut peak_split) = (0, [0; 8]);
            ledger.record_start();
            for _ in 0..200 {
                match random(3) {
                    0 => {
                        let (bytes, category) = (random(1000) as usize, Category::ALL[random(8) as usize]);
                        model.push((ledger.alloc(bytes, tag(category)), bytes, category));
                    }
                    1 if !model.is_empty() => {
                        let (id, ..) = model.swap_remove(random(model.len() as u64) as usize);
                        ledger.free(id);
                    }
                    2 if !model.is_empty() => {
                        let at = random(model.len() as u64) as usize;
                        let category = Category::ALL[random(8) as usize];
                        assert_eq!(ledger.retag(model[at].0, category), model[at].2);
                        model[at].2 = category;
                    }
                    _ => {}
                }
                let live: usize = model.iter().map(|b| b.1).sum();
                let mut split = [0; 8];
                model.iter().for_each(|b| split[b.2 as usize] += b.1);
                if live > peak {
                    (peak, peak_split) = (live, split);
                }
                let s = ledger.stats();
                assert_eq!((s.live, s.peak, s.blocks), (live, peak, model.len()));
                assert_eq!((s.by_category, s.peak_by_category), (split, peak_split));
                assert_eq!(s.by_category.iter().sum::<usize>(), s.live);
            }
            let at_peak = ledger.record_stop().unwrap().at_peak();
            assert_eq!(at_peak.iter().map(|(_, r)| r.bytes).sum::<usize>(), peak);
            let mut split = [0; 8];
            at_peak.iter().for_each(|(_, r)| split[r.tag.category as usize] += r.bytes);
            assert_eq!(split, peak_split);
        }
    }
}
