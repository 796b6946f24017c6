//! What a fresh machine lacks: system packages, toolchain components, the packages of the end-to-end tests.
//!
//! Looks before it installs, so that a second run changes nothing, needs no network and no rights.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{cargo, program, root, run, target_dir, works};
use crate::postgres;
use crate::steps::{Done, Group, Selection};

/// A Debian package, with how to see that what it brings is there already, from wherever it came.
struct Package {
    name: &'static str,
    there: fn() -> bool,
    /// Empty if every group needs it.
    needed_by: &'static [Group],
}

const PACKAGES: [Package; 8] = [
    // The C compiler builds SQLite, the cryptography library and the allocator.
    Package { name: "gcc", there: || works(program("cc").arg("--version")), needed_by: &[] },
    Package { name: "libc6-dev", there: || Path::new("/usr/include/stdio.h").exists(), needed_by: &[] },
    Package {
        name: "ca-certificates",
        there: || Path::new("/etc/ssl/certs/ca-certificates.crt").exists(),
        needed_by: &[],
    },
    Package { name: "postgresql", there: || postgres::programs().is_some(), needed_by: &[Group::Postgres] },
    Package { name: "nodejs", there: || works(program("node").arg("--version")), needed_by: &[Group::E2e] },
    Package { name: "npm", there: || works(program("npm").arg("--version")), needed_by: &[Group::E2e] },
    Package {
        name: "python3",
        there: || works(python3().arg("--version")),
        needed_by: &[Group::Deny, Group::E2e],
    },
    // Debian's Python comes without what makes an environment with an installer in it.
    Package {
        name: "python3-venv",
        there: || works(python3().args(["-c", "import ensurepip, venv"])),
        needed_by: &[Group::Deny, Group::E2e],
    },
];

/// Installs the system packages that are missing.
pub fn packages(selection: &Selection) -> Result<Done, String> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|package| {
            let needed_by = package.needed_by;
            needed_by.is_empty() || needed_by.iter().any(|&group| selection.includes(group))
        })
        .filter(|package| !(package.there)())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(Done::Nothing("nothing is missing"));
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
        return Ok(Done::Nothing("they are installed already"));
    }
    run(program("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(folder))?;
    Ok(Done::Passed)
}

/// cargo-deny, as a prebuilt program: building it takes longer than its checks.
pub fn cargo_deny_program(_: &Selection) -> Result<Done, String> {
    if works(cargo().args(["deny", "--version"])) {
        return Ok(Done::Nothing("cargo-deny is installed already"));
    }
    TOOLS.install()
}

/// cargo-deny, wherever it came from.
pub fn cargo_deny() -> Result<Command, String> {
    if works(cargo().args(["deny", "--version"])) {
        let mut command = cargo();
        command.arg("deny");
        return Ok(command);
    }
    Ok(program(TOOLS.folder()?.join("bin/cargo-deny")))
}

/// Installs what the Python tests need.
pub fn python_environment(_: &Selection) -> Result<Done, String> {
    PYTHON_TESTS.install()
}

/// The Python that the end-to-end tests run on, with their packages.
pub fn environment_python() -> Result<Command, String> {
    PYTHON_TESTS.python()
}

/// A Python environment below the target folder of cargo. It is created again if it does not match its requirements.
struct Environment {
    name: &'static str,
    /// From the root of the workspace; each package is pinned by its hash.
    requirements: &'static str,
}

const TOOLS: Environment = Environment { name: "tools", requirements: "xtask/tools/requirements.txt" };
const PYTHON_TESTS: Environment =
    Environment { name: "e2e-python", requirements: "e2e/python/requirements.txt" };

impl Environment {
    fn folder(&self) -> Result<PathBuf, String> {
        Ok(target_dir()?.join(self.name))
    }

    fn python(&self) -> Result<Command, String> {
        Ok(program(self.folder()?.join("bin/python")))
    }

    fn install(&self) -> Result<Done, String> {
        let requirements = root().join(self.requirements);
        let wanted = std::fs::read(&requirements)
            .map_err(|error| format!("cannot read {}: {error}", self.requirements))?;
        let folder = self.folder()?;
        // Written last, after everything else is in place.
        let installed = folder.join("installed.txt");
        if std::fs::read(&installed).is_ok_and(|installed| installed == wanted)
            && works(self.python()?.arg("--version"))
        {
            return Ok(Done::Nothing("they are installed already"));
        }
        run(python3().args(["-m", "venv", "--clear"]).arg(&folder))?;
        let mut pip = self.python()?;
        pip.args(["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]);
        // Nothing is built, so no code of a package runs before its hash was checked.
        pip.args(["--require-hashes", "--only-binary", ":all:", "--requirement"]).arg(&requirements);
        run(&mut pip)?;
        std::fs::write(&installed, wanted)
            .map_err(|error| format!("cannot write {}: {error}", installed.display()))?;
        Ok(Done::Passed)
    }
}

fn python3() -> Command {
    program("python3")
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
