// Attention in tiles of 32 queries by 32 keys; the scores never leave the group. KIND 0: y = softmax(scale · q kᵀ + mask) · v, and
// the logarithm of each row's sum. The way back makes the scores again: KIND 1: y = dq, and Σ o · dy of each row into `totals`,
// what all scores of the row have in common; KIND 2: y = dk, z = dv.
//
// A group owns 32 rows of y (queries, or keys in KIND 2) and 64 of its columns, and walks over the other side. A thread of 64
// owns rows ty, ty + 8 … of a tile and its columns tx, tx + 8 … In front stand `q_at` and so on, `y_put` and `z_put`.

@group(0) @binding(4) var<storage, read_write> sums: array<f32>;
@group(0) @binding(6) var<storage, read_write> totals: array<f32>;

const TILE: u32 = 32u;
const PITCH: u32 = 33u;
const NEVER: u32 = 0xff800000u;
// Which matrix.
const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;
const DY: u32 = 3u;

var<workgroup> left: array<f32, 1056>;
var<workgroup> right: array<f32, 1056>;
// Of each query and key: what its row of the other side counts for.
var<workgroup> weights: array<f32, 1056>;
var<workgroup> part: array<f32, 256>;

var<private> t: u32;
var<private> tx: u32;
var<private> ty: u32;
var<private> lead: u32;
var<private> starts: vec4<i32>;
var<private> mask_start: i32;
var<private> tile: array<vec4<f32>, 4>;
// Columns tx + 8 · j of each half of the 64, of rows ty + 8 · i; and of the second result.
var<private> sum: array<vec4<f32>, 8>;
var<private> sum_z: array<vec4<f32>, 8>;

fn begin(at: i32, steps: vec4<i32>, l: vec4<u32>) -> i32 {
    let moved = vec4<i32>(l) * steps;
    return at + moved.x + moved.y + moved.z + moved.w;
}

fn element(which: u32, row: u32, column: u32) -> f32 {
    let i = i32(row);
    let j = i32(column);
    let rows = select(p.queries, p.keys, which == K || which == V);
    if (row >= rows || column >= select(p.width, p.value_width, which == V || which == DY)) {
        return 0.0f;
    }
    if (which == Q) {
        return q_at(u32(starts.x + i * p.q_at.y + j * p.q_at.z));
    }
    if (which == K) {
        return k_at(u32(starts.y + i * p.k_at.y + j * p.k_at.z));
    }
    if (which == V) {
        return v_at(u32(starts.z + i * p.v_at.y + j * p.v_at.z));
    }
    return dy_at(u32(starts.w + i * p.dy_at.y + j * p.dy_at.z));
}

fn fill_left(which: u32, row: u32, column: u32) {
    for (var i = t; i < TILE * TILE; i += 64u) {
        left[(i / TILE) * PITCH + i % TILE] = element(which, row + i / TILE, column + i % TILE);
    }
}

fn fill_right(which: u32, row: u32, column: u32) {
    for (var i = t; i < TILE * TILE; i += 64u) {
        right[(i / TILE) * PITCH + i % TILE] = element(which, row + i / TILE, column + i % TILE);
    }
}

// tile = rows of one matrix times rows of another
fn multiply(a: u32, row: u32, b: u32, other: u32, width: u32) {
    for (var i = 0u; i < 4u; i++) {
        tile[i] = vec4<f32>(0.0f);
    }
    for (var c = 0u; c < width; c += TILE) {
        workgroupBarrier();
        fill_left(a, row, c);
        fill_right(b, other, c);
        workgroupBarrier();
        for (var s = 0u; s < TILE; s++) {
            let at = tx * PITCH + s;
            let column = vec4<f32>(right[at], right[at + 8u * PITCH], right[at + 16u * PITCH], right[at + 24u * PITCH]);
            let row_at = ty * PITCH + s;
            tile[0] += left[row_at] * column;
            tile[1] += left[row_at + 8u * PITCH] * column;
            tile[2] += left[row_at + 16u * PITCH] * column;
            tile[3] += left[row_at + 24u * PITCH] * column;
        }
    }
}

// The score of a query and a key, or minus infinity where the key does not count.
fn score(row: u32, column: u32, product: f32) -> f32 {
    let never = bitcast<f32>(NEVER | (p.queries & 0u));
    if (row >= p.queries || column >= p.keys || (CAUSAL == 1u && column > row)) {
        return never;
    }
    let plain = product * p.scale;
    if (MASK == 0u) {
        return plain;
    }
    let at = u32(mask_start + i32(row) * p.mask_at.y + i32(column) * p.mask_at.z);
    if (MASK == 1u) {
        return select(never, plain, mask_of(at) != 0.0f);
    }
    return plain + mask_of(at);
}

fn is_never(score: f32) -> bool {
    return bitcast<u32>(score) == NEVER;
}

// What dropout makes of 1.
fn kept(row: u32, column: u32) -> f32 {
    if (DROPOUT == 0u) {
        return 1.0f;
    }
    let whole = lead * p.queries + row;
    let low = whole * p.keys;
    let i = low + column;
    let drawn = random_bits(vec2<u32>(i, m_high_product(whole, p.keys) + select(0u, 1u, i < low))) >> 8u;
    return select(0.0f, p.inverse, drawn < p.least);
}

// Σ o · dy of the group's own rows, a row a thread.
fn fill_totals(own: u32, o_start: i32, first: u32) {
    let row = own + t;
    if (t < TILE && row < p.queries) {
        var total = 0.0f;
        for (var c = 0u; c < p.value_width; c++) {
            total += o_at(u32(o_start + i32(row) * p.more_at.y + i32(c) * p.more_at.z)) * element(DY, row, c);
        }
        part[t] = total;
        if (first == 0u) {
            totals[lead * p.queries + row] = total;
        }
    }
    workgroupBarrier();
}

// Adds the weighted rows of a matrix, from column `first` on, to `sum`.
fn gather(which: u32, other: u32, first: u32, wide: u32, by_queries: bool) {
    for (var half = 0u; half < 2u; half++) {
        if (first + half * TILE < wide) {
            workgroupBarrier();
            fill_right(which, other, first + half * TILE);
            workgroupBarrier();
            var part_sum = array<vec4<f32>, 4>(sum[half * 4u], sum[half * 4u + 1u], sum[half * 4u + 2u], sum[half * 4u + 3u]);
            let next = select(8u, 8u * PITCH, by_queries);
            for (var s = 0u; s < TILE; s++) {
                let at = s * PITCH + tx;
                let columns = vec4<f32>(right[at], right[at + 8u], right[at + 16u], right[at + 24u]);
                let own_at = select(s * PITCH + ty, ty * PITCH + s, by_queries);
                part_sum[0] += weights[own_at] * columns;
                part_sum[1] += weights[own_at + next] * columns;
                part_sum[2] += weights[own_at + 2u * next] * columns;
                part_sum[3] += weights[own_at + 3u * next] * columns;
            }
            for (var i = 0u; i < 4u; i++) {
                sum[half * 4u + i] = part_sum[i];
            }
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread_number: u32) {
    let g = group(wid, groups);
    if (g >= p.groups) {
        return;
    }
    t = thread_number;
    tx = t % 8u;
    ty = t / 8u;
    let first = (g % p.chunks) * 64u;
    let own = ((g / p.chunks) % p.blocks) * TILE;
    lead = g / p.chunks / p.blocks;
    let l2 = lead / p.lead.w;
    let l1 = l2 / p.lead.z;
    let l = vec4<u32>(l1 / p.lead.y, l1 % p.lead.y, l2 % p.lead.z, lead % p.lead.w);
    starts = vec4<i32>(begin(p.q_at.x, p.q_lead, l), begin(p.k_at.x, p.k_lead, l), begin(p.v_at.x, p.v_lead, l),
                       begin(p.dy_at.x, p.dy_lead, l));
    mask_start = begin(p.mask_at.x, p.mask_lead, l);
    let y_start = begin(p.y_at.x, p.y_lead, l);
    let by_queries = KIND < 2u;
    let wide = select(p.width, p.value_width, KIND == 0u);
    for (var i = 0u; i < 8u; i++) {
        sum[i] = vec4<f32>(0.0f);
        sum_z[i] = vec4<f32>(0.0f);
    }
    if (KIND == 1u) {
        fill_totals(own, begin(p.more_at.x, p.more_lead, l), first);
    }
    var top = vec4<f32>(bitcast<f32>(NEVER | (p.queries & 0u)));
    var share = vec4<f32>(0.0f);

    var from_other = 0u;
    var to_other = select(p.queries, p.keys, by_queries);
    if (CAUSAL == 1u) {
        if (by_queries) {
            to_other = min(p.keys, own + TILE);
        } else {
            from_other = own;
        }
    }
    for (var other = from_other; other < to_other; other += TILE) {
        let row = select(other, own, by_queries);
        let column = select(own, other, by_queries);
        multiply(Q, row, K, column, p.width);
        var found: array<vec4<f32>, 4>;
        for (var i = 0u; i < 4u; i++) {
            for (var j = 0u; j < 4u; j++) {
                found[i][j] = score(row + ty + 8u * i, column + tx + 8u * j, tile[i][j]);
            }
        }
        if (KIND == 0u) {
            workgroupBarrier();
            for (var i = 0u; i < 4u; i++) {
                let s = found[i];
                part[(ty + 8u * i) * 8u + tx] = m_max(m_max(s.x, s.y), m_max(s.z, s.w));
            }
            workgroupBarrier();
            for (var i = 0u; i < 4u; i++) {
                var highest = top[i];
                for (var n = 0u; n < 8u; n++) {
                    highest = m_max(highest, part[(ty + 8u * i) * 8u + n]);
                }
                // Before the first key that counts there is nothing to shrink.
                let same = bitcast<u32>(highest) == bitcast<u32>(top[i]);
                let shrink = select(m_exp(top[i] - highest), 1.0f, same);
                top[i] = highest;
                var added = 0.0f;
                for (var j = 0u; j < 4u; j++) {
                    let chance = select(m_exp(found[i][j] - highest), 0.0f, is_never(found[i][j]));
                    added += chance;
                    weights[(ty + 8u * i) * PITCH + tx + 8u * j] =
                        chance * kept(row + ty + 8u * i, column + tx + 8u * j);
                }
                share[i] = share[i] * shrink + added;
                sum[i] *= shrink;
                sum[4u + i] *= shrink;
            }
        } else {
            multiply(DY, row, V, column, p.value_width);
            for (var i = 0u; i < 4u; i++) {
                let query = row + ty + 8u * i;
                var log_sum = 0.0f;
                var total = 0.0f;
                if (query < p.queries) {
                    log_sum = sums[p.sums_at + lead * p.queries + query];
                    if (KIND == 1u) {
                        total = part[ty + 8u * i];
                    } else {
                        total = totals[lead * p.queries + query];
                    }
                }
                for (var j = 0u; j < 4u; j++) {
                    let none = is_never(found[i][j]) || is_never(log_sum);
                    let chance = select(m_exp(found[i][j] - log_sum), 0.0f, none);
                    let weight = chance * kept(query, column + tx + 8u * j);
                    // What the value of the key counts for, before what its score does.
                    weights[(ty + 8u * i) * PITCH + tx + 8u * j] = weight;
                    found[i][j] = select(weight * tile[i][j] - chance * total, 0.0f, none);
                }
            }
            if (KIND == 2u) {
                let sum_y = sum;
                sum = sum_z;
                gather(DY, other, first, p.value_width, by_queries);
                sum_z = sum;
                sum = sum_y;
            }
            for (var i = 0u; i < 4u; i++) {
                for (var j = 0u; j < 4u; j++) {
                    weights[(ty + 8u * i) * PITCH + tx + 8u * j] = found[i][j];
                }
            }
        }
        if (KIND == 0u) {
            gather(V, other, first, wide, by_queries);
        } else if (KIND == 1u) {
            gather(K, other, first, wide, by_queries);
        } else {
            gather(Q, other, first, wide, by_queries);
        }
    }

    if (KIND == 0u) {
        for (var i = 0u; i < 4u; i++) {
            part[(ty + 8u * i) * 8u + tx] = share[i];
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let row = own + ty + 8u * i;
        var factor = 1.0f;
        if (KIND == 0u) {
            var all = 0.0f;
            for (var n = 0u; n < 8u; n++) {
                all += part[(ty + 8u * i) * 8u + n];
            }
            factor = select(1.0f / all, 0.0f, all == 0.0f);
            if (tx == 0u && first == 0u && row < p.queries) {
                sums[p.sums_at + lead * p.queries + row] = select(top[i] + m_log(all), top[i], all == 0.0f);
            }
        } else {
            factor = p.scale;
        }
        for (var half = 0u; half < 2u; half++) {
            for (var j = 0u; j < 4u; j++) {
                let column = first + half * TILE + tx + 8u * j;
                if (row < select(p.keys, p.queries, by_queries) && column < wide) {
                    y_put(u32(y_start + i32(row) * p.y_at.y + i32(column) * p.y_at.z), sum[half * 4u + i][j] * factor);
                }
                if (KIND == 2u && row < p.keys && column < p.value_width) {
                    z_put(u32(begin(p.more_at.x, p.more_lead, l) + i32(row) * p.more_at.y + i32(column) * p.more_at.z),
                          sum_z[half * 4u + i][j]);
                }
            }
        }
    }
}
