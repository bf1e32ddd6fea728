// What is written or added at places: y [outer, count, inner] meets x [outer, positions, inner] in the rows that a list names,
// in the order of the positions. LINES = 1: the list has a number for each element of x, which names a place on its line.
// SORTED = 1: the list is (row, position) in order, line by line; else the numbers of the rows, all of which are looked at.
// A thread owns an element of y, so that no two write one place. BLANK = 1: y begins as zeros; else as what is there.
// MEET = 0: the last one stays; 1: float sums; 2: integer sums.

@group(0) @binding(2) var<storage, read_write> list: array<u32>;

fn meet(old: vec2<u32>, more: vec2<u32>) -> vec2<u32> {
    if (MEET == 0u) {
        return more;
    }
    if (MEET == 1u) {
        return vec2<u32>(bitcast<u32>(bitcast<f32>(old.x) + bitcast<f32>(more.x)), 0u);
    }
    let low = old.x + more.x;
    return vec2<u32>(low, old.y + more.y + select(0u, 1u, low < old.x));
}

fn present(e: u32) -> vec2<u32> {
    if (BLANK == 1u) {
        return vec2<u32>(0u, 0u);
    }
    let at = p.y_at + e;
    if (BYTES == 8u) {
        return vec2<u32>(y[2u * at], y[2u * at + 1u]);
    }
    if (BYTES == 4u) {
        return vec2<u32>(y[at], 0u);
    }
    if (BYTES == 2u) {
        return vec2<u32>((y[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu, 0u);
    }
    return vec2<u32>((y[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu, 0u);
}

fn element(e: u32) -> vec2<u32> {
    var value = present(e);
    let c = e % p.inner;
    let rest = e / p.inner;
    let row = rest % p.count;
    let o = rest / p.count;
    if (row == p.skip) {
        return value;
    }
    let start = o * p.positions;
    if (SORTED == 0u) {
        for (var j = 0u; j < p.positions; j++) {
            let source = (start + j) * p.inner + c;
            if (list[select(j, source, LINES == 1u)] == row) {
                value = meet(value, bits(p.x_at + source));
            }
        }
        return value;
    }
    let line = select(0u, (o * p.inner + c) * p.positions, LINES == 1u);
    var low = 0u;
    var high = p.positions;
    while (low < high) {
        let middle = (low + high) >> 1u;
        if (list[2u * (line + middle)] < row) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    for (var j = low; j < p.positions; j++) {
        if (list[2u * (line + j)] != row) {
            break;
        }
        value = meet(value, bits(p.x_at + (start + list[2u * (line + j) + 1u]) * p.inner + c));
    }
    return value;
}
