//! The binary as its users run it: real processes, real files, real signals.

mod commands;
mod crash;
mod hostile;
mod leaks;
mod openid_connect;
mod process;
mod tls;
