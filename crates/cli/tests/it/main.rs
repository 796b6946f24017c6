//! The binary as its users run it: real processes, real files, real signals.

mod backup;
mod commands;
mod crash;
mod deploy;
mod doctor;
mod hostile;
mod keys;
mod leaks;
mod living;
mod openid_connect;
mod process;
mod tls;
mod transfer;
