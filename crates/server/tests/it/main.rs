//! The server through its front door: every test speaks HTTP to a real server on a real database.
//! One file per route or theme; [`app`] sets the stage in one line.

mod app;
mod assertion;
mod bearer;
mod bounds;
mod bundles;
mod client_auth;
mod conformance;
mod cors;
mod forged;
mod invitations;
mod jwks_uri;
mod jwt;
mod matrix;
mod mtls;
mod network;
mod nodes;
mod openapi;
mod people;
mod policies;
mod privilege;
mod registration;
mod resources;
mod rotate_secret;
mod routes;
mod searching;
mod second_factor;
mod secret_writes;
mod sign_in;
mod signing;
mod slow;
mod smoke;
mod throttle;
mod tls;
mod token;
mod visibility;
