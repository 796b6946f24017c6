//! The files in `deploy/` are about this server: its settings, its routes, its port. What starts them in
//! earnest is not here, so this is as far as a test goes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use keyrelay_server::ROUTES;
use saphyr::{LoadableYamlNode, Yaml};

use crate::process::{BINARY, keyrelay};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy().join(name)).unwrap()
}

/// What names of our variables begin with.
const PREFIX: &str = "KEYRELAY_";

/// All names that begin like our variables.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
    words.filter(|word| word.starts_with(PREFIX) && *word != PREFIX).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_variable_is_one_that_the_server_reads() {
    let help = keyrelay().args(["serve", "--help"]).output().await.unwrap().stdout;
    let mut known = variables(&String::from_utf8(help).unwrap());
    known.extend(["KEYRELAY_BOOTSTRAP_CLIENT_ID", "KEYRELAY_BOOTSTRAP_CLIENT_SECRET"].map(str::to_owned));
    for name in ["keyrelay.service", "Containerfile", "kubernetes/keyrelay.yaml", "../docs/OPERATIONS.md"] {
        let named = variables(&read(name));
        assert!(!named.is_empty(), "{name}");
        assert!(named.is_subset(&known), "{name}: {:?}", named.difference(&known));
    }
}

#[test]
fn the_manifests_lead_to_routes_that_there_are() {
    let text = read("kubernetes/keyrelay.yaml");
    let documents = Yaml::load_from_str(&text).unwrap();
    let of_kind = |kind: &str| {
        let found = documents.iter().find(|document| document["kind"].as_str() == Some(kind));
        found.unwrap_or_else(|| panic!("no {kind}"))
    };
    let container = &of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        assert!(ROUTES.iter().any(|route| route.path == path), "{path}");
    }
    let port = container["ports"][0]["containerPort"].as_integer().unwrap();
    let listen = of_kind("ConfigMap")["data"]["KEYRELAY_LISTEN"].as_str().unwrap();
    assert!(listen.ends_with(&format!(":{port}")), "{listen}");

    let paths = of_kind("Ingress")["spec"]["rules"][0]["http"]["paths"].as_vec().unwrap();
    let passed_on = |route: &str| {
        paths.iter().any(|entry| {
            let path = entry["path"].as_str().unwrap();
            let below = route.strip_prefix(path);
            match entry["pathType"].as_str().unwrap() {
                "Prefix" => below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
                _ => below == Some(""),
            }
        })
    };
    for route in ROUTES {
        let is_inner = ["/livez", "/readyz", "/metrics"].contains(&route.path);
        assert_eq!(passed_on(route.path), !is_inner, "{}", route.path);
    }
}

#[test]
fn systemd_understands_its_unit() {
    let unit = read("keyrelay.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/keyrelay serve"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keyrelay.service");
    fs::write(&file, unit.replace("/usr/local/bin/keyrelay", BINARY)).unwrap();
    // Not every machine has systemd.
    if let Ok(output) = std::process::Command::new("systemd-analyze").arg("verify").arg(&file).output() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}
