// Running totals along the middle of [outer, n, inner], from the end where REVERSE = 1. In front stand T, what a line
// carries, and its parts: first, next (of a total, an element and its factor), and result.
// SHARED = 0: a thread walks a line. SHARED = 1: a group does, for totals that `join` in any order, 1024 elements at a time.

var<workgroup> tree: array<T, 256>;

// Where step k of a line is, and the element whose factor takes the total there.
fn place(line: u32, k: u32) -> u32 {
    let along = select(k, p.n - 1u - k, REVERSE == 1u);
    return (line / p.inner * p.n + along) * p.inner + line % p.inner;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) wid: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if (SHARED == 0u) {
        let line = thread(id, groups);
        if (line >= p.lines) {
            return;
        }
        var total = first();
        for (var k = 0u; k < p.n; k++) {
            let at = place(line, k);
            // In reverse the factor is that of the place a step comes from; the first step has none.
            let factor_at = select(at, place(line, max(k, 1u) - 1u), REVERSE == 1u);
            total = next(total, at, factor_at, k == 0u);
            y[p.y_at + at] = result(total);
        }
        return;
    }
    let line = group(wid, groups);
    if (line >= p.lines) {
        return;
    }
    var carried = first();
    for (var head = 0u; head < p.n; head += 1024u) {
        let k = head + t * 4u;
        var own = first();
        for (var i = k; i < min(k + 4u, p.n); i++) {
            own = next(own, place(line, i), 0u, true);
        }
        tree[t] = own;
        for (var step = 1u; step < 256u; step = step << 1u) {
            workgroupBarrier();
            var before = first();
            if (t >= step) {
                before = tree[t - step];
            }
            workgroupBarrier();
            tree[t] = join(before, tree[t]);
        }
        workgroupBarrier();
        var total = carried;
        if (t > 0u) {
            total = join(carried, tree[t - 1u]);
        }
        for (var i = k; i < min(k + 4u, p.n); i++) {
            let at = place(line, i);
            total = next(total, at, 0u, true);
            y[p.y_at + at] = result(total);
        }
        carried = join(carried, tree[255]);
        workgroupBarrier();
    }
}
