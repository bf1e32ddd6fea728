// Elements by number. LINES = 0: y [outer, positions, inner] are rows of x [outer, count, inner], named by a list. LINES = 1:
// an index for each element of y names a place on its line. The list is int64, or CHECKED: row numbers, -1 for none.

@group(0) @binding(2) var<storage, read_write> index: array<u32>;

fn row_at(at: u32) -> i32 {
    if (CHECKED == 1u) {
        return bitcast<i32>(index[at]);
    }
    let i = 2u * (p.index_at + at);
    return place(vec2<i32>(bitcast<i32>(index[i]), bitcast<i32>(index[i + 1u])), p.count, p.site, 0u);
}

fn element(e: u32) -> vec2<u32> {
    let c = e % p.inner;
    let rest = e / p.inner;
    let position = rest % p.positions;
    let o = rest / p.positions;
    let row = row_at(select(position, e, LINES == 1u));
    if (row < 0) {
        return vec2<u32>(0xffffffffu, 0xffffffffu);
    }
    return bits(p.x_at + (o * p.count + u32(row)) * p.inner + c);
}
