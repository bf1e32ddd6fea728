// The row of `rows` whose tensor a group works on: the last one that begins at or before it.
fn parameter(here: u32) -> u32 {
    var low = p.first;
    var high = p.first + p.tensors;
    while (high - low > 1u) {
        let middle = (low + high) >> 1u;
        if (rows[8u * middle] <= here) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return 8u * low;
}
