// y = max(x, 0) and, with MASK = 1, one bit an element: set where x > 0 or NaN. KEEP = 1 is the way back: y = x where the bit is
// set, else 0. KEEP = 2: where the result of the way there, shown by `mask`, is not 0. All in the order of memory.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> mask: array<u32>;

var<workgroup> bits: array<atomic<u32>, 8>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let i = thread(id, groups);
    if (KEEP == 2u) {
        if (i < p.n) {
            y[p.y_at + i] = select(x[p.x_at + i], 0.0f, bitcast<f32>(mask[p.mask_at + i]) == 0.0f);
        }
        return;
    }
    if (KEEP == 1u) {
        if (i < p.n) {
            y[p.y_at + i] = select(0.0f, x[p.x_at + i], ((mask[i >> 5u] >> (i & 31u)) & 1u) == 1u);
        }
        return;
    }
    if (t < 8u) {
        atomicStore(&bits[t], 0u);
    }
    workgroupBarrier();
    if (i < p.n) {
        let value = x[p.x_at + i];
        let on = value > 0.0f || m_is_nan(value);
        y[p.y_at + i] = select(0.0f, value, on);
        if (MASK == 1u && on) {
            atomicOr(&bits[t >> 5u], 1u << (t & 31u));
        }
    }
    workgroupBarrier();
    if (MASK == 1u && t < 8u) {
        let first = i - t + t * 32u;
        if (first < p.n) {
            mask[first >> 5u] = atomicLoad(&bits[t]);
        }
    }
}
