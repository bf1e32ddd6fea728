// The sum of a row of the left side, of a matrix `whole` of [splits, batch]. Where k is cut it goes to `part`, behind the sums of
// the product, [splits, batch, m].
fn leave_sum(whole: u32, m: u32, value: f32) {
    let at = whole * p.m + m;
    if (p.splits == 1u) {
        sums_put(p.sums_at + at, value);
    } else {
        part[p.splits * p.batch * p.m * p.n + at] = value;
    }
}
