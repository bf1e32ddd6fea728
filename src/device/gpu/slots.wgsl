// A key with the place of its element on the line, in STRIDE words (3 where keys have two). No two of a line are equal.

struct Slot {
    key: vec2<u32>,
    place: u32,
}

fn before(a: Slot, b: Slot) -> bool {
    if (a.key.x != b.key.x) {
        return a.key.x < b.key.x;
    }
    if (STRIDE == 3u && a.key.y != b.key.y) {
        return a.key.y < b.key.y;
    }
    return a.place < b.place;
}

// PLACES = 1: int64 places of the first few of each line [outer, first, inner]; else slots, line by line.
fn put(line: u32, rank: u32, slot: Slot) {
    if (PLACES == 1u) {
        if (rank < p.first) {
            let at = 2u * (p.y_at + ((line / p.inner) * p.first + rank) * p.inner + line % p.inner);
            y[at] = slot.place;
            y[at + 1u] = 0u;
        }
        return;
    }
    let at = (line * p.n + rank) * STRIDE;
    y[at] = slot.key.x;
    if (STRIDE == 3u) {
        y[at + 1u] = slot.key.y;
    }
    y[at + STRIDE - 1u] = slot.place;
}
