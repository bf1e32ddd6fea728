//! Which bytes of which region are free: a two-level segregated fit (Masmano et al. 2004), O(1) to take and to give back.
//!
//! Pure: works on (region, offset, size) and touches no memory. Chunk records live beside the data, so the same list
//! serves memory that the CPU cannot address.

const SECOND_BITS: u32 = 4;
const SECOND: usize = 1 << SECOND_BITS;
const FIRST: usize = 64 - 6;
/// Every size and offset is a multiple of this: one cache line, and the widest vector.
pub const GRAIN: usize = 64;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Chunk {
    region: u32,
    free: bool,
    offset: usize,
    size: usize,
    // Neighbours in memory, and in the list of free chunks of this size class.
    before: u32,
    after: u32,
    previous: u32,
    next: u32,
}

/// A chunk handed out: give `id` back to free it.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub id: u32,
    pub region: u32,
    pub offset: usize,
    #[cfg(test)]
    size: usize,
}

pub struct FreeList {
    chunks: Vec<Chunk>,
    vacant: Vec<u32>,
    heads: Vec<[u32; SECOND]>,
    first_map: u64,
    second_map: [u16; FIRST],
}

impl Default for FreeList {
    fn default() -> Self {
        FreeList {
            chunks: vec![],
            vacant: vec![],
            heads: vec![[NONE; SECOND]; FIRST],
            first_map: 0,
            second_map: [0; FIRST],
        }
    }
}

/// The size class that a free chunk of this size is filed under (rounded down).
fn class(size: usize) -> (usize, usize) {
    let grains = size / GRAIN;
    let log = usize::BITS - 1 - grains.leading_zeros();
    if log < SECOND_BITS {
        return (0, grains);
    }
    let second = (grains >> (log - SECOND_BITS)) & (SECOND - 1);
    ((log - SECOND_BITS + 1) as usize, second)
}

/// The smallest size of which every chunk in its class is large enough (rounded up to a class boundary).
fn round_up(size: usize) -> usize {
    let grains = size / GRAIN;
    let log = usize::BITS - 1 - grains.leading_zeros();
    if log < SECOND_BITS {
        return size;
    }
    let step = (1usize << (log - SECOND_BITS)) * GRAIN;
    size.div_ceil(step) * step
}

impl FreeList {
    /// Adds a region of `size` bytes, all free.
    pub fn grow(&mut self, region: u32, size: usize) {
        let id = self.new_chunk(Chunk {
            region,
            free: false,
            offset: 0,
            size,
            before: NONE,
            after: NONE,
            previous: NONE,
            next: NONE,
        });
        self.file(id);
    }

    pub fn take(&mut self, size: usize) -> Option<Taken> {
        debug_assert!(size > 0 && size.is_multiple_of(GRAIN));
        let (first, second) = class(round_up(size));
        let id = self.find(first, second)?;
        self.unfile(id);
        let rest = self.chunks[id as usize].size - size;
        if rest > 0 {
            self.chunks[id as usize].size = size;
            let c = self.chunks[id as usize];
            let tail = self.new_chunk(Chunk { offset: c.offset + size, size: rest, before: id, after: c.after, ..c });
            if c.after != NONE {
                self.chunks[c.after as usize].before = tail;
            }
            self.chunks[id as usize].after = tail;
            self.file(tail);
        }
        let c = &self.chunks[id as usize];
        Some(Taken {
            id,
            region: c.region,
            offset: c.offset,
            #[cfg(test)]
            size: c.size,
        })
    }

    pub fn give(&mut self, id: u32) {
        let mut id = id;
        let c = self.chunks[id as usize];
        assert!(!c.free, "bug: a chunk was freed twice");
        if c.after != NONE && self.chunks[c.after as usize].free {
            self.unfile(c.after);
            self.merge(id, c.after);
        }
        let before = self.chunks[id as usize].before;
        if before != NONE && self.chunks[before as usize].free {
            self.unfile(before);
            self.merge(before, id);
            id = before;
        }
        self.file(id);
    }

    /// Joins `right` into `left`, its neighbour in memory.
    fn merge(&mut self, left: u32, right: u32) {
        let r = self.chunks[right as usize];
        self.chunks[left as usize].size += r.size;
        self.chunks[left as usize].after = r.after;
        if r.after != NONE {
            self.chunks[r.after as usize].before = left;
        }
        self.vacant.push(right);
    }

    fn new_chunk(&mut self, chunk: Chunk) -> u32 {
        if let Some(id) = self.vacant.pop() {
            self.chunks[id as usize] = chunk;
            return id;
        }
        self.chunks.push(chunk);
        (self.chunks.len() - 1) as u32
    }

    fn find(&self, first: usize, second: usize) -> Option<u32> {
        let here = u32::from(self.second_map[first]) & (!0u32 << second);
        let (first, map) = if here != 0 {
            (first, here)
        } else {
            let above = self.first_map & (!0u64).checked_shl(first as u32 + 1).unwrap_or(0);
            if above == 0 {
                return None;
            }
            let first = above.trailing_zeros() as usize;
            (first, u32::from(self.second_map[first]))
        };
        Some(self.heads[first][map.trailing_zeros() as usize])
    }

    fn file(&mut self, id: u32) {
        let (first, second) = class(self.chunks[id as usize].size);
        let head = self.heads[first][second];
        let c = &mut self.chunks[id as usize];
        (c.free, c.previous, c.next) = (true, NONE, head);
        if head != NONE {
            self.chunks[head as usize].previous = id;
        }
        self.heads[first][second] = id;
        self.first_map |= 1 << first;
        self.second_map[first] |= 1 << second;
    }

    fn unfile(&mut self, id: u32) {
        let c = self.chunks[id as usize];
        self.chunks[id as usize].free = false;
        if c.next != NONE {
            self.chunks[c.next as usize].previous = c.previous;
        }
        if c.previous != NONE {
            self.chunks[c.previous as usize].next = c.next;
            return;
        }
        let (first, second) = class(c.size);
        self.heads[first][second] = c.next;
        if c.next == NONE {
            self.second_map[first] &= !(1 << second);
            if self.second_map[first] == 0 {
                self.first_map &= !(1 << first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_programs_never_overlap_and_merge_back_to_whole_regions() {
        let mut state = 7u64;
        let mut random = move |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let (mut list, region) = (FreeList::default(), 1 << 20);
        list.grow(0, region);
        list.grow(1, region);
        for _ in 0..50 {
            let mut taken: Vec<Taken> = vec![];
            for _ in 0..400 {
                if random(3) > 0 {
                    let most = 1 << random(14);
                    let size = (random(most) as usize + 1).next_multiple_of(GRAIN);
                    let Some(new) = list.take(size) else { continue };
                    assert!(new.size == size && new.offset + size <= region && new.offset.is_multiple_of(GRAIN));
                    let clash = taken.iter().any(|t| {
                        t.region == new.region && t.offset < new.offset + size && new.offset < t.offset + t.size
                    });
                    assert!(!clash);
                    taken.push(new);
                } else if !taken.is_empty() {
                    let at = random(taken.len() as u64) as usize;
                    list.give(taken.swap_remove(at).id);
                }
            }
            taken.drain(..).for_each(|t| list.give(t.id));
            let whole = [list.take(region).unwrap(), list.take(region).unwrap()];
            whole.iter().for_each(|t| list.give(t.id));
        }
    }
}
