// Convolutions of channels-last images as products, one for each group of channels; the weight is [out, depth, kh, kw].
// The elements of the result go to `finish`.
// HOW = 0: y [pixel of y, out] = x [.., (tap, channel)] · weight (+ bias). HOW = 1: dx [pixel of x, channel] = dy [.., (tap,
// out)] · weight, a product for each position within a stride (a phase), of the taps that reach it. HOW = 2:
// dweight [out, (tap, channel)] = dy [out, pixel of y] · x [.., (tap, channel)].

@group(0) @binding(0) var<storage, read_write> a: array<LeftWord>;
@group(0) @binding(1) var<storage, read_write> b: array<RightWord>;
@group(0) @binding(3) var<storage, read_write> part: array<f32>;

alias Seat = vec3<i32>;

var<private> own: u32;
// Of HOW = 1: rows and columns of the phase, the first tap that reaches it, and how many do.
var<private> phase: vec2<u32>;
var<private> first: vec2<u32>;
var<private> count: vec2<u32>;

fn begin(batch: u32) {
    own = batch % p.groups;
    if (HOW == 1u) {
        let at = batch / p.groups;
        phase = vec2<u32>(at / p.phases_x, at % p.phases_x);
        first = vec2<u32>(first_tap(phase.x + p.padding_y, p.dilation_y, p.stride_y, p.apart_y),
            first_tap(phase.y + p.padding_x, p.dilation_x, p.stride_x, p.apart_x));
        count = vec2<u32>(taps_from(first.x, p.taps / p.kw, p.apart_y), taps_from(first.y, p.kw, p.apart_x));
    }
}

// The first whose place is that of `at` within a stride; they repeat after `apart`, which is where none is.
fn first_tap(at: u32, dilation: u32, stride: u32, apart: u32) -> u32 {
    var tap = 0u;
    var place = 0u;
    while (tap < apart && place != at % stride) {
        tap += 1u;
        place = (place + dilation) % stride;
    }
    return tap;
}

fn taps_from(first: u32, all: u32, apart: u32) -> u32 {
    return select(0u, (all - min(first, all) + apart - 1u) / apart, first < apart);
}

// How long the sums are.
fn k_size() -> u32 {
    if (HOW == 1u) {
        return count.x * count.y * p.width;
    }
    return p.k;
}

// A place in images, or a way between two: rows, columns, and an index of the rest.
fn spot(row: u32, col: u32, rest: u32) -> vec3<i32> {
    return vec3<i32>(i32(row), i32(col), i32(rest));
}

// The step to a tap, before a channel.
fn step(tap: u32, channel: u32) -> vec3<i32> {
    return spot(tap / p.kw * p.dilation_y, tap % p.kw * p.dilation_x, channel);
}

// Where in x the window of a pixel of y begins, without the padding.
fn corner(pixel: u32) -> vec3<i32> {
    let image = pixel / (p.out_w * p.out_h);
    let rest = image * p.h * p.w * p.c_in + own * p.depth;
    return spot(pixel / p.out_w % p.out_h * p.stride_y, pixel % p.out_w * p.stride_x, rest);
}

// The place in x of a corner and a step, or -1 in the padding.
fn met(corner: vec3<i32>, step: vec3<i32>) -> i32 {
    let row = corner.x + step.x - i32(p.padding_y);
    let col = corner.y + step.y - i32(p.padding_x);
    let inside = row >= 0 && col >= 0 && row < i32(p.h) && col < i32(p.w);
    return select(-1, corner.z + step.z + (row * i32(p.w) + col) * i32(p.c_in), inside);
}

fn left_seat(m: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return corner(m);
    }
    if (HOW == 1u) {
        // Where in y the first tap reads; whole strides, if it may be before the first row or column.
        let rest = m / (p.steps_x * p.steps_y) * p.out_h * p.out_w * p.c_out + own * p.width;
        let at = spot(m / p.steps_x % p.steps_y, m % p.steps_x, rest);
        let row = i32(phase.x + p.padding_y) - i32(first.x * p.dilation_y);
        let col = i32(phase.y + p.padding_x) - i32(first.y * p.dilation_x);
        return at + vec3<i32>(row / i32(p.stride_y), col / i32(p.stride_x), 0);
    }
    return spot(0u, 0u, own * p.width + m);
}

fn left_key(k: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return step(k / p.depth, k % p.depth);
    }
    if (HOW == 1u) {
        let tap = k / p.width;
        return spot(tap / count.y * p.spread_y, tap % count.y * p.spread_x, k % p.width);
    }
    return spot(0u, 0u, k * p.c_out);
}

// The place of an element of the left side, or -1 where there is none.
fn left_place(seat: vec3<i32>, key: vec3<i32>) -> i32 {
    if (HOW == 2u) {
        return seat.z + key.z;
    }
    if (HOW == 0u) {
        return met(seat, key);
    }
    // The pixel of y, if there is one, that meets this one of x at a tap.
    let row = seat.x - key.x;
    let col = seat.y - key.y;
    let inside = row >= 0 && col >= 0 && row < i32(p.out_h) && col < i32(p.out_w);
    return select(-1, seat.z + key.z + (row * i32(p.out_w) + col) * i32(p.c_out), inside);
}

fn left_at(seat: vec3<i32>, key: vec3<i32>) -> LeftCell {
    let at = left_place(seat, key);
    if (at < 0) {
        return LeftCell();
    }
    return left_element(p.a_at + u32(at));
}

fn left_four(seat: vec3<i32>, key: vec3<i32>) -> LeftFour {
    let at = left_place(seat, key);
    if (at < 0) {
        return LeftFour();
    }
    return left_word(p.a_at + u32(at));
}

fn right_seat(n: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return spot(0u, 0u, (own * p.width + n) * p.depth * p.taps);
    }
    if (HOW == 1u) {
        return spot(0u, 0u, (own * p.width * p.depth + n) * p.taps);
    }
    return step(n / p.depth, n % p.depth);
}

fn right_key(k: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return spot(0u, 0u, k % p.depth * p.taps + k / p.depth);
    }
    if (HOW == 1u) {
        let tap = k / p.width;
        let at = (first.x + tap / count.y * p.apart_y) * p.kw + first.y + tap % count.y * p.apart_x;
        return spot(0u, 0u, k % p.width * p.depth * p.taps + at);
    }
    return corner(k);
}

fn right_place(seat: vec3<i32>, key: vec3<i32>) -> i32 {
    if (HOW < 2u) {
        return seat.z + key.z;
    }
    return met(key, seat);
}

fn right_at(seat: vec3<i32>, key: vec3<i32>) -> RightCell {
    let at = right_place(seat, key);
    if (at < 0) {
        return RightCell();
    }
    return right_element(p.b_at + u32(at));
}

fn right_four(seat: vec3<i32>, key: vec3<i32>) -> RightFour {
    let at = right_place(seat, key);
    if (at < 0) {
        return RightFour();
    }
    return right_word(p.b_at + u32(at));
}

fn put(m: u32, n: u32, value: f32) {
    if (HOW == 2u) {
        finish(((own * p.width + m) * p.depth + n % p.depth) * p.taps + n / p.depth, value);
        return;
    }
    var pixel = m;
    if (HOW == 1u) {
        let row = m / p.steps_x % p.steps_y * p.stride_y + phase.x;
        let col = m % p.steps_x * p.stride_x + phase.y;
        // The last of a phase may be beyond the image.
        if (row >= p.h || col >= p.w) {
            return;
        }
        pixel = (m / (p.steps_x * p.steps_y) * p.h + row) * p.w + col;
    }
    let at = (pixel * p.groups + own) * p.n + n;
    if (HAS_BIAS == 1u) {
        finish(at, value + bias_at(p.bias_at + own * p.n + n));
    } else {
        finish(at, value);
    }
}

fn put_quad(m: u32, n: u32, quad: vec4<f32>) {
    put(m, n, quad.x);
    if (n + 1u < p.n) { put(m, n + 1u, quad.y); }
    if (n + 2u < p.n) { put(m, n + 2u, quad.z); }
    if (n + 3u < p.n) { put(m, n + 3u, quad.w); }
}
