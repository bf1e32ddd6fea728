//! What to keep: plans for the gaps between two uses of a value, derived from records alone.
//!
//! Knows ids, bytes and costs; no tensor, no graph, no clock. A tape says what a step did; a plan says which values to
//! drop in which gap; the simulator says what that costs and what the peak is, to the byte.

pub mod tape;
