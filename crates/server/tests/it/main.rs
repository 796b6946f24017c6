//! The server through its front door: every test speaks HTTP to a real server on a real database.
//! One file per route or theme; [`app`] sets the stage in one line.

mod app;
mod smoke;
