//! What the speed of Keyrelay is measured with: a load generator, a floor to compare with, and the runs.
//!
//! Figures from a shared machine mean little by themselves, so every run measures the least program that does
//! the same work beside the product, in turn, and reports the share. Nothing here is part of the product.
#![forbid(unsafe_code)]
#![allow(clippy::doc_markdown, reason = "SQLite is a name, not code")]

pub mod clock;
pub mod commits;
pub mod floor;
pub mod http;
pub mod load;
pub mod one_query;
pub mod pgbench;
pub mod process;
pub mod product;
pub mod queueing;
pub mod ranks;
pub mod report;
pub mod runs;
pub mod source;
