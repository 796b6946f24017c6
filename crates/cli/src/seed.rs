//! `keyrelay seed`: fills a database with client applications, so that it can be measured how the
//! server does with many. For the benchmark.

use clap::Args;
use keyrelay_server::BaseUrl;
use keyrelay_server::bootstrap::{SeededClient, seed as seed_clients};
use serde::Serialize;

use crate::installation::Installation;
use crate::say::say;
use crate::settings::DataArgs;

/// Clients whose credentials are printed.
const SAMPLES: usize = 64;

/// The flags of `keyrelay seed`.
#[derive(Debug, Args)]
pub struct SeedArgs {
    #[command(flatten)]
    data: DataArgs,
    /// How many clients to make
    #[arg(long)]
    clients: usize,
    /// Give each a description of so many bytes
    #[arg(long, default_value_t = 0)]
    description_bytes: usize,
    /// Give each so many tags
    #[arg(long, default_value_t = 0)]
    tags: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample<'a> {
    client_id: String,
    client_secret: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seeded<'a> {
    project_id: String,
    clients: Vec<Sample<'a>>,
}

/// Makes the clients, and prints credentials of some as one line of JSON.
pub async fn seed(args: SeedArgs) -> anyhow::Result<()> {
    let each = SeededClient { description_bytes: args.description_bytes, tags: args.tags };
    let (settings, count) = (args.data.read()?, args.clients);
    let installation = Installation::open(&settings, BaseUrl::parse("http://127.0.0.1/")?).await?;
    let (project, clients) = seed_clients(&installation.app, count, each, SAMPLES).await?;
    installation.app.close().await;
    let clients = clients
        .iter()
        .map(|client| Sample { client_id: client.id.to_string(), client_secret: client.secret.reveal() })
        .collect();
    let line = serde_json::to_string(&Seeded { project_id: project.to_string(), clients })?;
    say!("{line}");
    Ok(())
}
