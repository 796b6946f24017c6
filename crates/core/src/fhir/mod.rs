//! The part of FHIR that is pure: reading JSON, checking resources, understanding searches, and
//! describing what this server does. Nothing here reads a clock, draws a random number or touches
//! the network, so every rule can be tested as values in, values out.

pub mod conformance;
mod datetime;
pub mod json;
mod nearest;
mod reference;
pub mod schema;
pub mod search;
pub mod weight;

pub use schema::ResourceType;
