// Adds up what the splits of a product left: y, whose elements go to `finish`, from [splits, outputs], and sums of rows (SUMS = 1)
// from [splits, rows] behind that. Three axes of y say where an element lies in a split.

@group(0) @binding(0) var<storage, read_write> part: array<f32>;

fn total(first: u32, apart: u32) -> f32 {
    var sum = 0.0f;
    for (var split = 0u; split < p.splits; split++) {
        sum += part[first + split * apart];
    }
    return sum;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = thread(id, groups);
    if (e < p.outputs) {
        let at = e / (p.size1 * p.size2) * p.step0 + e / p.size2 % p.size1 * p.step1 + e % p.size2 * p.step2;
        finish(e, total(at, p.outputs));
    } else if (SUMS == 1u && e - p.outputs < p.rows) {
        let row = e - p.outputs;
        sums_put(p.sums_at + row, total(p.splits * p.outputs + row, p.rows));
    }
}
