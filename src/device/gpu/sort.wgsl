// Runs of SIZE elements of each line of x [outer, n, inner], sorted in the memory of a group (Batcher's bitonic network).

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

var<workgroup> upper: array<u32, SIZE>;
var<workgroup> lower: array<u32, SIZE>;
var<workgroup> places: array<u32, SIZE>;

fn slot(i: u32) -> Slot {
    return Slot(vec2<u32>(upper[i], lower[i]), places[i]);
}

fn store(i: u32, slot: Slot) {
    upper[i] = slot.key.x;
    lower[i] = slot.key.y;
    places[i] = slot.place;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let g = group(wid, groups);
    if (g >= p.runs * p.lines) {
        return;
    }
    let line = g / p.runs;
    let first = (g % p.runs) * SIZE;
    let start = p.x_at + (line / p.inner) * p.n * p.inner + line % p.inner;
    for (var i = t; i < SIZE; i += 256u) {
        let place = first + i;
        // Beyond the end: after everything.
        var own = Slot(vec2<u32>(0xffffffffu, 0xffffffffu), 0xffffffffu);
        if (place < p.n) {
            let rising = key(start + place * p.inner);
            own = Slot(select(rising, ~rising, vec2<bool>(DESCENDING == 1u)), place);
        }
        store(i, own);
    }
    for (var size = 2u; size <= SIZE; size = size << 1u) {
        for (var step = size >> 1u; step > 0u; step = step >> 1u) {
            workgroupBarrier();
            for (var i = t; i < SIZE; i += 256u) {
                let other = i ^ step;
                if (other > i) {
                    let a = slot(i);
                    let b = slot(other);
                    if (before(b, a) == ((i & size) == 0u)) {
                        store(i, b);
                        store(other, a);
                    }
                }
            }
        }
    }
    workgroupBarrier();
    for (var i = t; i < min(SIZE, p.n - first); i += 256u) {
        put(line, first + i, slot(i));
    }
}
