//! Attacks on the real binary: one function for each way in which one caller was once able to stop, starve or mislead
//! the others, and a table that shows whether it still is.
//!
//! Tenant A attacks. Tenant B works meanwhile, and the answers that B gets decide ([`tenant`]). Each row has its own
//! server and database, except rows that share them on purpose ([`scene`]). Loopback only, bounded in count and time.
#![forbid(unsafe_code)]

pub mod api;
pub mod clock;
pub mod command;
pub mod peers;
pub mod report;
pub mod rows;
pub mod run;
pub mod scene;
pub mod tenant;
