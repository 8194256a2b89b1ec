//! The importer: graphs and weights of valid checkpoints, and errors of invalid ones.

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
