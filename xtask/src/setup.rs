//! What a fresh machine lacks: system packages, toolchain components, the packages of the end-to-end tests.
//!
//! Looks before it installs, so that a second run changes nothing, needs no network and no rights.

use std::path::Path;

use crate::command::{cargo, program, root, run, works};
use crate::steps::{Done, Group, Selection};

/// A Debian package, with how to see that what it brings is there already, from wherever it came.
struct Package {
    name: &'static str,
    there: fn() -> bool,
    end_to_end_only: bool,
}

const PACKAGES: [Package; 5] = [
    // The C compiler builds SQLite, the cryptography library and the allocator.
    Package { name: "gcc", there: || works(program("cc").arg("--version")), end_to_end_only: false },
    Package {
        name: "libc6-dev",
        there: || Path::new("/usr/include/stdio.h").exists(),
        end_to_end_only: false,
    },
    Package {
        name: "ca-certificates",
        there: || Path::new("/etc/ssl/certs/ca-certificates.crt").exists(),
        end_to_end_only: false,
    },
    Package { name: "nodejs", there: || works(program("node").arg("--version")), end_to_end_only: true },
    Package { name: "npm", there: || works(program("npm").arg("--version")), end_to_end_only: true },
];

/// Installs the system packages that are missing.
pub fn packages(selection: &Selection) -> Result<Done, String> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|package| !package.end_to_end_only || selection.includes(Group::E2e))
        .filter(|package| !(package.there)())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(Done::Skipped("nothing is missing".to_owned()));
    }
    let names = missing.join(" ");
    if !works(program("apt-get").arg("--version")) {
        return Err(format!("these packages are missing, and there is no apt-get to install them: {names}"));
    }
    println!("    missing: {names}");
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(missing);
    apt_get(&arguments)?;
    Ok(Done::Passed)
}

/// Both components come with the toolchain; installing them is the business of whoever chose it.
pub fn components(_: &Selection) -> Result<Done, String> {
    for component in ["fmt", "clippy"] {
        if !works(cargo().args([component, "--version"])) {
            return Err(format!(
                "`cargo {component}` does not work; add it to the toolchain with `rustup component add rustfmt clippy`"
            ));
        }
    }
    Ok(Done::Passed)
}

/// `npm ci`, when there is something newer to install than what is installed.
pub fn node_modules(_: &Selection) -> Result<Done, String> {
    let folder = root().join("e2e");
    let lock = folder.join("package-lock.json");
    if !lock.exists() {
        return Err("there is no e2e/package-lock.json".to_owned());
    }
    // npm writes this file last, after everything else is in place.
    let installed = folder.join("node_modules/.package-lock.json");
    if installed.exists() && !newer(&lock, &installed) {
        return Ok(Done::Skipped("they are installed already".to_owned()));
    }
    run(program("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder))?;
    Ok(Done::Passed)
}

fn newer(one: &Path, other: &Path) -> bool {
    let time = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    match (time(one), time(other)) {
        (Ok(one), Ok(other)) => one > other,
        // What cannot be compared is installed again.
        _ => true,
    }
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let is_root = program("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = if is_root {
        program("env")
    } else if works(program("sudo").arg("--version")) {
        let mut sudo = program("sudo");
        sudo.arg("env");
        sudo
    } else {
        return Err("packages are missing, and installing them needs root or sudo".to_owned());
    };
    run(command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]).args(arguments))
}
