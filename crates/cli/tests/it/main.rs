//! The binary as its users run it: real processes, real files, real signals.

mod admin;
mod agent;
mod audit;
mod backup;
mod commands;
mod counting;
mod crash;
mod deploy;
mod doctor;
mod fleet;
mod hostile;
mod keys;
mod leaks;
mod living;
mod openid_connect;
mod place;
mod process;
mod receiver;
mod rotate;
mod rotate_again;
mod stage;
mod tls;
mod transfer;
mod undo;
mod way;
mod webhooks;
