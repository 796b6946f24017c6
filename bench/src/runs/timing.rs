//! Whether the time of a refusal tells its reason (promise P5): each reason again and again, in random order, on
//! connections that come from many addresses so that the limit on failures is not met.
//!
//! Few requests at a time: whoever listens for small differences does not load the server meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Setting;
use crate::clock;
use crate::http::{self, Target};
use crate::product::{Admin, Credentials, Installation};
use crate::ranks::{compare, quantile};
use crate::report::Table;
use crate::source;

/// Failures from one address, and for one client: below the limit of 100.
const FAILURES_EACH: usize = 90;
/// Requests of a new connection that are not measured.
const WARM_UP: usize = 3;
/// An account waits after five wrong passwords.
const FAILURES_PER_ACCOUNT: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);
const PASSWORD: &str = "four plain words here";

/// One way to be refused: what it is called, and requests that lead there.
struct Reason {
    name: &'static str,
    requests: Vec<Vec<u8>>,
}

/// What is measured: the reasons, and the status they are all answered with.
struct Plan {
    reasons: Vec<Reason>,
    status: u16,
    samples: usize,
    /// Connections that ask beside each other.
    at_once: usize,
}

/// Refused grants, and refused logins.
///
/// # Errors
/// When the server cannot be started, or answers something else than the refusal that is expected.
pub fn run(setting: &Setting) -> Result<Vec<Table>> {
    let installation = Installation::new(&setting.keyrelay, &setting.scratch)?;
    // With the log as it is by default: a line for each refusal.
    let server = installation.start_logging("info")?;
    let admin = installation.admin(&server)?;
    let grants = grants(&admin, server.target(), setting.samples)?;
    let logins = logins(&admin, server.target(), setting.login_samples)?;
    let grants = measure(server.target(), &grants, 0)?;
    let logins = measure(server.target(), &logins, 1)?;
    server.stop()?;
    Ok(vec![table("Time of refused grants", &grants), table("Time of refused logins", &logins)])
}

fn grants(admin: &Admin, target: Target, samples: usize) -> Result<Plan> {
    let pool = samples.div_ceil(FAILURES_EACH) + 1;
    let clients = |name: &str| -> Result<Vec<Credentials>> {
        (0..pool).map(|n| admin.create_client(&format!("{name} {n}"))).collect()
    };
    let requests = |clients: Vec<Credentials>| -> Vec<Vec<u8>> {
        clients.iter().map(|client| client.grant(target)).collect()
    };
    // Well-formed secrets that are another client's.
    let wrong = |clients: Vec<Credentials>| -> Vec<Vec<u8>> {
        let others = clients.iter().cycle().skip(1);
        let mixed = clients.iter().zip(others).map(|(client, other)| client.with(&other.client_secret));
        mixed.map(|client| client.grant(target)).collect()
    };
    let off = clients("Off")?;
    for client in &off {
        admin.switch_off(&client.client_id)?;
    }
    let inactive = clients("Inactive")?;
    for client in &inactive {
        admin.deactivate_membership(&format!("ClientApplication/{}", client.client_id))?;
    }
    let former = clients("Former")?;
    for client in &former {
        admin.replace_secret(client)?;
    }
    let unknown = clients("Unknown")?.iter().map(Credentials::as_nobody).collect();
    let garbled = clients("Garbled")?.iter().map(Credentials::garbled).collect();
    Ok(Plan {
        reasons: vec![
            Reason { name: "wrong secret", requests: wrong(clients("Wrong")?) },
            Reason { name: "wrong secret, a second set", requests: wrong(clients("Wrong too")?) },
            Reason { name: "unknown client", requests: requests(unknown) },
            Reason { name: "client is off, right secret", requests: requests(off) },
            Reason { name: "membership inactive, right secret", requests: requests(inactive) },
            Reason { name: "secret that has ended", requests: requests(former) },
            Reason { name: "wrong checksum", requests: requests(garbled) },
        ],
        status: 401,
        samples,
        // A refusal is kept back for most of its time.
        at_once: 4,
    })
}

fn logins(admin: &Admin, target: Target, samples: usize) -> Result<Plan> {
    let pool = samples.div_ceil(FAILURES_PER_ACCOUNT);
    let login = |email: &str, password: &str| {
        let body = serde_json::json!({ "email": email, "password": password, "scope": "openid" }).to_string();
        http::prepared(
            target,
            "POST",
            "/auth/login",
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
    };
    let accounts = |name: &str| -> Result<Vec<String>> {
        (0..pool)
            .map(|n| {
                let email = format!("{name}-{n}@example.test");
                admin.invite(inviting(n), &email, PASSWORD)?;
                Ok(email)
            })
            .collect()
    };
    let wrong = |emails: Vec<String>| emails.iter().map(|email| login(email, "not the password")).collect();
    let inactive = "inactive@example.test";
    admin.deactivate_membership(&admin.invite(inviting(0), inactive, PASSWORD)?)?;
    let unknown = (0..pool).map(|n| format!("nobody-{n}@example.test")).collect();
    Ok(Plan {
        reasons: vec![
            Reason { name: "wrong password", requests: wrong(accounts("one")?) },
            Reason { name: "wrong password, a second set", requests: wrong(accounts("two")?) },
            Reason { name: "unknown account", requests: wrong(unknown) },
            Reason { name: "membership inactive, right password", requests: vec![login(inactive, PASSWORD)] },
        ],
        status: 400,
        samples,
        // A password's hash keeps a core busy.
        at_once: 1,
    })
}

/// Some of the addresses that invitations come from.
fn inviting(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, 0, u8::try_from(n % 250).unwrap_or(0) + 1)
}

/// The times of each reason, in nanoseconds.
fn measure(target: Target, plan: &Plan, run: u8) -> Result<Vec<(&'static str, Vec<u64>)>> {
    let parts: Vec<Result<Vec<Vec<u64>>>> = std::thread::scope(|scope| {
        let ask = |n: usize| scope.spawn(move || ask_in_turn(target, plan, Order::new(run, n), n));
        let asking: Vec<_> = (0..plan.at_once).map(ask).collect();
        let joined = asking.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|part| part.map_err(|_| anyhow::anyhow!("a thread that asked has ended early"))?).collect()
    });
    let mut times: Vec<(&'static str, Vec<u64>)> =
        plan.reasons.iter().map(|reason| (reason.name, Vec::with_capacity(plan.samples))).collect();
    for part in parts {
        for ((_, all), some) in times.iter_mut().zip(part?) {
            all.extend(some);
        }
    }
    Ok(times)
}

/// Every `at_once`-th sample, from the `n`-th on.
fn ask_in_turn(target: Target, plan: &Plan, mut order: Order, n: usize) -> Result<Vec<Vec<u64>>> {
    let mut times = vec![Vec::with_capacity(plan.samples / plan.at_once + 1); plan.reasons.len()];
    let warm_up = http::prepared(target, "GET", "/livez", &[], &[]);
    let mut turns: Vec<usize> = Vec::new();
    let mut connection: Option<Connection> = None;
    let mut asked = FAILURES_EACH;
    for sample in (n..plan.samples).step_by(plan.at_once) {
        // Each reason once, in random order, so that what changes with time changes for all.
        turns.clear();
        turns.extend(0..plan.reasons.len());
        order.shuffle(&mut turns);
        for turn in &turns {
            if asked == FAILURES_EACH {
                asked = 0;
                let mut fresh = Connection::open(target, order.next_address())?;
                for _ in 0..WARM_UP {
                    fresh.ask(&warm_up, 200)?;
                }
                connection = Some(fresh);
            }
            asked += 1;
            let requests = &plan.reasons[*turn].requests;
            let connection = connection.as_mut().context("a connection")?;
            times[*turn].push(connection.ask(&requests[sample % requests.len()], plan.status)?);
        }
    }
    Ok(times)
}

/// Compares each reason with the first.
fn table(title: &'static str, times: &[(&'static str, Vec<u64>)]) -> Table {
    let base = &times[0].1;
    let rows = times.iter().enumerate().map(|(n, (name, times))| {
        let us = |ns: u64| format!("{:.1} µs", micros(ns));
        let mut row = vec![(*name).to_owned(), us(quantile(times, 0.5)), us(quantile(times, 0.9))];
        if n == 0 {
            row.extend(["–", "–", "–"].map(str::to_owned));
        } else {
            let compared = compare(times, base);
            let shift = micros(quantile(times, 0.5)) - micros(quantile(base, 0.5));
            row.push(format!("{shift:+.1} µs"));
            row.push(format!("{:.1} %", compared.superiority * 100.0));
            row.push(if compared.p < 0.001 { "< 0.001".to_owned() } else { format!("{:.3}", compared.p) });
        }
        row
    });
    Table {
        title,
        note: format!(
            "{} of each reason, in random order. Slower: how often one of these takes longer than one of \
             the first row, 50 % where they cannot be told apart. p: of the rank test by Mann and Whitney.",
            base.len()
        ),
        columns: vec!["reason", "median", "90 % within", "difference of medians", "slower", "p"],
        rows: rows.collect(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "times stay far below 2^52 ns")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// A connection from an address of its own.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    fn open(target: Target, from: Ipv4Addr) -> Result<Self> {
        let stream = source::connect(from, target.address())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::with_capacity(16 * 1024) })
    }

    /// The time from the first byte sent to the last byte received, in nanoseconds.
    fn ask(&mut self, request: &[u8], status: u16) -> Result<u64> {
        self.received.clear();
        let mut chunk = [0; 16 * 1024];
        let start = clock::now();
        self.stream.write_all(request)?;
        let head = loop {
            let count = self.stream.read(&mut chunk)?;
            ensure!(count > 0, "the connection ended before the answer did");
            self.received.extend_from_slice(&chunk[..count]);
            if let Some(head) = http::head(&self.received)?
                && self.received.len() >= head.length()
            {
                break head;
            }
        };
        let elapsed = clock::since(start);
        ensure!(head.status == status, "a refusal was answered {} and not {status}", head.status);
        Ok(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The order of requests and the addresses they come from: random enough, and the same in every run (`SplitMix64`).
struct Order {
    state: u64,
    address: u32,
}

impl Order {
    /// The order of the `n`-th of those who ask beside each other in a run. None shares an address with another.
    fn new(run: u8, n: usize) -> Self {
        let part = u8::try_from(n % 16).unwrap_or(0);
        let network = Ipv4Addr::new(127, 16 * (run + 1) + part, 0, 0);
        Self { state: u64::from(part), address: u32::from(network) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            let range = u64::try_from(last + 1).unwrap_or(1);
            items.swap(last, usize::try_from(self.next() % range).unwrap_or(0));
        }
    }

    /// Another address of 127.0.0.0/8 each time.
    fn next_address(&mut self) -> Ipv4Addr {
        self.address += 1;
        Ipv4Addr::from(self.address)
    }
}
