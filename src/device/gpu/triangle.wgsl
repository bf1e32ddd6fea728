// Matrices [rows, columns] with zeros above (UPPER = 0) or below (UPPER = 1) a diagonal.

fn element(e: u32) -> vec2<u32> {
    let column = e % p.columns;
    let row = (e / p.columns) % p.rows;
    let above = i32(column) - i32(row);
    let kept = select(above <= p.diagonal, above >= p.diagonal, UPPER == 1u);
    if (!kept) {
        return vec2<u32>(0u, 0u);
    }
    return bits(p.x_at + e);
}
