// BACK = 0: y = the loss of each row of the logits x, and with LSE = 1 its log-sum-exp into `lse`. BACK = 1: y = the
// gradient of the logits from `slope`, that of the losses; with LSE = 1 the log-sum-exp is read. A target that is no class
// makes its row NaN, and is noted.

@group(0) @binding(1) var<storage, read_write> targets: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;

fn share(j: u32) -> f32 {
    if (WEIGHT == 1u) {
        return weight_at(p.weight_at + j);
    }
    return 1.0f;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    if (!sit(group(wid, groups), t)) {
        return;
    }
    let x_row = p.x_at + row_start();
    let goal = targets[p.target_at + at_row()];
    let ignored = goal.x == p.ignore_low && goal.y == p.ignore_high;
    let known = goal.y == 0u && goal.x < p.columns;
    let own = min(goal.x, p.columns - 1u);
    var top = 0.0f;
    var rest = 0.0f;
    if (BACK == 1u && LSE == 1u) {
        top = lse[p.lse_at + at_row()];
    } else {
        top = -m_inf();
        for (var j = lane; j < p.columns; j += LANES) {
            top = m_max(top, x_at(x_row + j));
        }
        top = largest(top);
        for (var j = lane; j < p.columns; j += LANES) {
            rest += m_exp(x_at(x_row + j) - top);
        }
        rest = m_log(total(rest));
    }
    let even = p.smoothing / f32(p.columns);
    if (BACK == 1u) {
        var all = 0.0f;
        if (SMOOTH == 1u) {
            for (var j = lane; j < p.columns; j += LANES) {
                all += share(j);
            }
            all = total(all) * even;
        }
        let dy = slope_at(p.slope_at + at_row());
        let target_share = (1.0f - p.smoothing) * share(own);
        let scale = dy * (target_share + all);
        for (var j = lane; j < p.columns && is_own(); j += LANES) {
            var value = m_exp((x_at(x_row + j) - top) - rest) * scale;
            if (SMOOTH == 1u) {
                value -= dy * even * share(j);
            }
            if (j == own) {
                value -= dy * target_share;
            }
            value = select(m_nan(), value, known);
            y_put(p.y_at + row * p.columns + j, select(value, 0.0f, ignored || dy == 0.0f));
        }
        return;
    }
    var spread = 0.0f;
    if (SMOOTH == 1u) {
        for (var j = lane; j < p.columns; j += LANES) {
            spread += share(j) * ((top - x_at(x_row + j)) + rest);
        }
        spread = total(spread) * even;
    }
    if (lane == 0u && is_own()) {
        let loss = (1.0f - p.smoothing) * (share(own) * ((top - x_at(x_row + own)) + rest)) + spread;
        y_put(p.y_at + row, select(select(m_nan(), loss, known), 0.0f, ignored));
        if (!known && !ignored) {
            note(bitcast<vec2<i32>>(goal), p.site, 0u);
        }
        if (LSE == 1u) {
            lse[p.lse_at + row] = top + rest;
        }
    }
}
