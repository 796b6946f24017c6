//! Keyrelay over HTTP. [`App`] holds what every request needs; [`router`] says which path leads
//! where; [`Server`] accepts connections within bounds and drains them when asked to stop.
//!
//! `fhir` is the FHIR API with `$rotate-secret`, `oauth` the authorization server, `registration`
//! where clients register themselves, `admin` the routes beside FHIR that Medplum's clients call.

mod admin;
mod app;
mod audit;
mod auth;
mod body;
pub mod bootstrap;
mod budget;
mod client_certificate;
mod config;
mod cors;
mod deadlines;
mod error;
mod events;
mod fhir;
mod former;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hashing;
mod headers;
mod host;
mod jobs;
mod limiter;
pub mod log;
mod login;
mod members;
mod metrics;
mod oauth;
mod outbound;
mod paid_reads;
mod places;
mod proxies;
mod registration;
mod router;
mod serve;
mod streams;
mod tls;
mod ui;
mod usage;
mod webhooks;
mod write_timeout;

pub use app::App;
pub use config::{BaseUrl, ClientCertificates, Config, SecretPolicy};
pub use error::{ServeError, StartError};
pub use proxies::{NotANetwork, TrustedProxies};
pub use router::{ROUTES, Route, router};
pub use serve::Server;
pub use tls::{Tls, TlsError};
