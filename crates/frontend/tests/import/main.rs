//! Checkpoints in, graphs and weights out; and everything that must not come in.

mod checkpoints;
mod config;
mod damage;
mod graph;
mod oracle;
mod quantized;
mod schemes;
mod shards;
mod surplus;
mod weights;
