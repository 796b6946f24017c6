//! Attacks on the real binary: one function for each way in which one caller was able to stop, starve or mislead the
//! others, and a table that says whether it still is.
//!
//! Tenant A attacks. Tenant B works meanwhile, and what B is answered decides ([`tenant`]). Each row has a server and a
//! database of its own, unless rows are to meet ([`scene`]). Loopback only, bounded in count and time.
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
