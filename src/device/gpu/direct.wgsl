// Products too narrow for tiles: a thread makes one sum. In front stands what `gemm.wgsl` asks for, `put` (m, n,
// value), and `left_place` and `right_place`, which are negative in the padding; SKIPS = 1: no product is made of that. Neighbouring threads
// have neighbours among n, then among the batch. SUMS = 1: those of the first column add up the rows of the left side too.

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let unit = thread(id, groups);
    let n = unit % p.n;
    let batch = unit / p.n % p.batch;
    let m = unit / (p.n * p.batch) % p.m;
    let split = unit / (p.n * p.batch * p.m);
    if (split >= p.splits) {
        return;
    }
    begin(batch);
    let left = left_seat(m);
    let right = right_seat(n);
    let tail = min((split + 1u) * p.run, k_size());
    var sum = 0.0f;
    var row = 0.0f;
    // Short sums first, so that long ones keep their digits.
    for (var k0 = split * p.run; k0 < tail; k0 += 128u) {
        var short = 0.0f;
        var short_row = 0.0f;
        for (var k = k0; k < min(k0 + 128u, tail); k++) {
            let l = left_key(k);
            let r = right_key(k);
            // Where they do not meet there is no product: 0 times an infinite weight would be NaN.
            if (SKIPS == 0u || left_place(left, l) >= 0 && right_place(right, r) >= 0) {
                short += f32(left_at(left, l)) * f32(right_at(right, r));
            }
            if (SUMS == 1u && n == 0u) {
                short_row += f32(left_at(left, l));
            }
        }
        sum += short;
        row += short_row;
    }
    if (SUMS == 1u && n == 0u) {
        leave_sum(split * p.batch + batch, m, row);
    }
    if (p.splits > 1u) {
        part[((split * p.batch + batch) * p.m + m) * p.n + n] = sum;
    } else {
        put(m, n, sum);
    }
}
