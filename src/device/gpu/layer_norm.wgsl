// BACK = 0: y = (x - mean) · rstd · weight + bias along rows, and mean and rstd into `stats`. BACK = 1: y = dx from x, dy
// and `stats`. WEIGHT and BIAS say which of the two there are. The elements of y go to `finish`.

@group(0) @binding(4) var<storage, read_write> stats: array<f32>;

fn weighted(value: f32, j: u32) -> f32 {
    if (WEIGHT == 1u) {
        return value * weight_at(p.weight_at + j);
    }
    return value;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    if (!sit(group(wid, groups), t)) {
        return;
    }
    let x_row = p.x_at + row_start();
    let e = row_start();
    let count = f32(p.columns);
    if (BACK == 1u) {
        let dy_row = p.dy_at + row_start();
        let mean = stats[p.stats_at + 2u * at_row()];
        let rstd = stats[p.stats_at + 2u * at_row() + 1u];
        var plain = 0.0f;
        var along = 0.0f;
        for (var j = lane; j < p.columns; j += LANES) {
            let slope = weighted(dy_at(dy_row + j), j);
            plain += slope;
            along += slope * (x_at(x_row + j) - mean);
        }
        plain = total(plain) / count;
        along = total(along) * rstd / count;
        for (var j = lane; j < p.columns && is_own(); j += LANES) {
            let slope = weighted(dy_at(dy_row + j), j);
            finish(e + j, (slope - plain - (x_at(x_row + j) - mean) * (rstd * along)) * rstd);
        }
        return;
    }
    var sum = 0.0f;
    for (var j = lane; j < p.columns; j += LANES) {
        sum += x_at(x_row + j);
    }
    let mean = total(sum) / count;
    var spread = 0.0f;
    for (var j = lane; j < p.columns; j += LANES) {
        let apart = x_at(x_row + j) - mean;
        spread += apart * apart;
    }
    let rstd = 1.0f / sqrt(total(spread) / count + p.eps);
    for (var j = lane; j < p.columns && is_own(); j += LANES) {
        var value = weighted((x_at(x_row + j) - mean) * rstd, j);
        if (BIAS == 1u) {
            value += bias_at(p.bias_at + j);
        }
        finish(e + j, value);
    }
    if (STATS == 1u && lane == 0u && is_own()) {
        stats[p.stats_at + 2u * row] = mean;
        stats[p.stats_at + 2u * row + 1u] = rstd;
    }
}
