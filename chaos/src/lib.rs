//! Several servers on a database that fails: what clients were answered meanwhile is recorded, and each
//! client application's history is checked for linearizability (promises P1 to P3).
//!
//! Everything is real: the binary, PostgreSQL with a synchronous standby, HTTP. Ours are the proxy
//! between servers and database ([`proxy`]) and the checker ([`checker`]).
#![forbid(unsafe_code)]

pub mod checker;
pub mod clients;
pub mod clock;
pub mod dice;
pub mod faults;
pub mod history;
pub mod model;
pub mod nodes;
pub mod postgres;
pub mod proxy;
pub mod report;
