//! A PostgreSQL of a few hundred lines, in memory: the driver speaks its protocol to it over a pipe. It
//! knows the statements of the simulation, keeps transactions as the real one does, and fails when it is
//! told to.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use keyrelay_core::limits::DATABASE_CONNECT_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Config, NoTls};

use super::faults::{Fault, Faults};
use crate::postgres::config::{Connect, Connecting, NotConnected};
use crate::postgres::write::COMMIT_OF_ONES_OWN;

/// `OID` of the types that occur.
const TEXT: u32 = 25;
const INT8: u32 = 20;
const INT4: u32 = 23;
const BOOL: u32 = 16;
/// The arguments of a change.
const CREATED: [u32; 8] = [TEXT, TEXT, TEXT, TEXT, INT8, INT8, BOOL, TEXT];
const PIPE_BYTES: usize = 64 * 1024;

/// Everything that the servers of one run know.
#[derive(Debug)]
struct World {
    faults: Faults,
    /// One more with everything that happens, so that "before" has a meaning also where no time passes.
    tick: i64,
    /// Servers of connections that are at work.
    busy: Vec<i32>,
    backends: i32,
    /// Changes in the order in which they were committed.
    applied: Vec<String>,
    /// What happened, to compare two runs.
    log: Vec<String>,
}

/// See the module. A clone is the same server.
#[derive(Clone, Debug)]
pub(super) struct Server(Arc<Mutex<World>>);

impl Server {
    pub(super) fn new(faults: Faults) -> Self {
        let (busy, applied, log) = (Vec::new(), Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(World { faults, tick: 0, busy, backends: 0, applied, log })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, as a number that grows with everything that happens.
    pub(super) fn tick(&self) -> i64 {
        let mut world = self.world();
        world.tick += 1;
        world.tick
    }

    /// How often a change was committed.
    pub(super) fn applied(&self, change: &str) -> usize {
        self.world().applied.iter().filter(|applied| *applied == change).count()
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.world().log.clone()
    }

    fn fault(&self, at: &str) -> Fault {
        let mut world = self.world();
        let fault = world.faults.next(at);
        if fault != Fault::None {
            let line = format!("{at}: {fault:?}");
            world.log.push(line);
        }
        fault
    }

    fn quiet_from(&self) -> Instant {
        self.world().faults.quiet_from()
    }

    /// What makes connections to it.
    pub(super) fn connector(&self) -> Connect {
        let server = self.clone();
        Arc::new(move || {
            let server = server.clone();
            let connecting = async move {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                tokio::spawn(Backend::run(server, far));
                let connected = Config::new().user("keyrelay").connect_raw(near, NoTls).await;
                let (client, connection) = connected.map_err(NotConnected::from)?;
                let running: crate::postgres::config::Running =
                    Box::pin(async move { drop(connection.await) });
                Ok((client, running))
            };
            Box::pin(async move {
                timeout(DATABASE_CONNECT_MAX, connecting).await.unwrap_or(Err(NotConnected::Silent))
            }) as Connecting
        })
    }
}

/// Why a connection ends.
enum End {
    /// It is cut, or the client has gone.
    Cut,
    /// Nothing is answered any more, and nothing is closed.
    Silence,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Cut
    }
}

/// An error as the server tells it: `SQLSTATE`.
struct State(&'static str);

/// One connection of the server.
struct Backend {
    server: Server,
    pipe: DuplexStream,
    out: BytesMut,
    statements: HashMap<String, String>,
    /// The statement and the arguments that are to be executed.
    bound: (String, Vec<String>),
    transaction: Option<Open>,
    /// An error in the extended protocol: everything up to the next `Sync` is passed over.
    passes_over: bool,
    is_read_only: bool,
    pid: i32,
}

#[derive(Default)]
struct Open {
    changes: Vec<String>,
    has_failed: bool,
}

impl Backend {
    async fn run(server: Server, pipe: DuplexStream) {
        let pid = {
            let mut world = server.world();
            world.backends += 1;
            world.backends
        };
        let mut backend = Self {
            pid,
            server,
            pipe,
            out: BytesMut::new(),
            statements: HashMap::new(),
            bound: Default::default(),
            transaction: None,
            passes_over: false,
            is_read_only: false,
        };
        let end = match backend.greet().await {
            Ok(()) => backend.serve().await,
            Err(end) => end,
        };
        if matches!(end, End::Silence) {
            // Until the network is whole again, or the client closes.
            let quiet_from = backend.server.quiet_from();
            tokio::select! {
                biased;
                () = async { while backend.pipe.read_u8().await.is_ok() {} } => {}
                () = tokio::time::sleep_until(quiet_from) => {}
            }
        }
    }

    async fn greet(&mut self) -> Result<(), End> {
        let length = usize::try_from(self.pipe.read_u32().await?).unwrap_or(0).saturating_sub(4);
        self.pipe.read_exact(&mut vec![0; length]).await?;
        self.hold("connect").await?;
        self.message(b'R', |body| body.put_u32(0));
        self.ready();
        self.flush().await
    }

    async fn serve(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        let kind = self.pipe.read_u8().await?;
        let length = usize::try_from(self.pipe.read_u32().await?).unwrap_or(0).saturating_sub(4);
        let mut body = vec![0; length];
        self.pipe.read_exact(&mut body).await?;
        let mut body = Bytes::from(body);
        match kind {
            b'X' => return Err(End::Cut),
            b'S' => {
                self.passes_over = false;
                self.ready();
                return self.flush().await;
            }
            b'Q' => {
                let sql = text(&mut body);
                if let Err(state) = self.simple(&sql).await? {
                    self.error(&state);
                }
                self.ready();
                return self.flush().await;
            }
            _ if self.passes_over => {}
            b'P' => {
                let (name, sql) = (text(&mut body), text(&mut body));
                self.statements.insert(name, sql);
                self.message(b'1', |_| {});
            }
            b'D' => self.describe(&mut body),
            b'B' => {
                self.bind(&mut body);
                self.message(b'2', |_| {});
            }
            b'E' => {
                if let Err(state) = self.execute().await? {
                    self.error(&state);
                    self.passes_over = true;
                }
            }
            b'C' => self.message(b'3', |_| {}),
            other => panic!("the simulation knows no message {:?}", char::from(other)),
        }
        Ok(())
    }

    /// Takes its time, or fails, before or after `what` is done.
    async fn hold(&mut self, what: &str) -> Result<Option<Fault>, End> {
        match self.server.fault(what) {
            Fault::None => Ok(None),
            Fault::Slow(time) => {
                // It goes on also where the client has gone.
                self.server.world().busy.push(self.pid);
                sleep(time).await;
                let pid = self.pid;
                self.server.world().busy.retain(|busy| *busy != pid);
                Ok(None)
            }
            Fault::CutBefore => Err(End::Cut),
            Fault::SilenceBefore => Err(End::Silence),
            after => Ok(Some(after)),
        }
    }

    /// What a fault does to an answer that is ready.
    fn let_go(after: Option<Fault>) -> Result<(), End> {
        match after {
            Some(Fault::CutAfter) => Err(End::Cut),
            Some(Fault::SilenceAfter) => Err(End::Silence),
            _ => Ok(()),
        }
    }

    async fn simple(&mut self, sql: &str) -> Result<Result<(), State>, End> {
        let after = self.hold(sql.split(' ').next().unwrap_or_default()).await?;
        if let Some(Fault::Error(state)) = after {
            return Ok(Err(self.failed(state)));
        }
        match sql {
            "SET default_transaction_read_only = on" => self.is_read_only = true,
            COMMIT_OF_ONES_OWN => {}
            sql if sql.starts_with("BEGIN ISOLATION") => self.transaction = Some(Open::default()),
            "COMMIT" | "ROLLBACK" => {
                let open = self.transaction.take().unwrap_or_default();
                if sql == "COMMIT" && !open.has_failed {
                    let mut world = self.server.world();
                    if open.changes.iter().any(|change| world.applied.contains(change)) {
                        return Ok(Err(State("40001")));
                    }
                    world.tick += 1;
                    world.log.push(format!("commit {}", open.changes.join(" ")));
                    world.applied.extend(open.changes);
                }
            }
            other => panic!("the simulation does not know {other:?}"),
        }
        Self::let_go(after)?;
        self.complete(sql);
        Ok(Ok(()))
    }

    async fn execute(&mut self) -> Result<Result<(), State>, End> {
        let (sql, args) = std::mem::take(&mut self.bound);
        let reads = sql.starts_with(super::READ);
        let after = self.hold(if reads { "read" } else { sql.split(' ').next().unwrap_or_default() }).await?;
        if let Some(Fault::Error(state)) = after {
            return Ok(Err(self.failed(state)));
        }
        if self.transaction.as_ref().is_some_and(|open| open.has_failed) {
            return Ok(Err(State("25P02")));
        }
        let mut rows: Vec<Vec<Bytes>> = Vec::new();
        let mut tag = "SELECT 1";
        match sql.as_str() {
            sql if sql.starts_with(super::READ) => {
                let tick = self.server.tick();
                rows.extend(
                    args.iter().map(|key| vec![key.clone().into(), tick.to_be_bytes().to_vec().into()]),
                );
            }
            sql if sql.starts_with(super::CREATE) => {
                tag = "INSERT 0 1";
                let change = args.first().cloned().unwrap_or_default();
                if self.server.applied(&change) > 0 {
                    return Ok(Err(self.failed("23505")));
                }
                match &mut self.transaction {
                    Some(open) => open.changes.push(change),
                    None if self.is_read_only => return Ok(Err(State("25006"))),
                    None => self.server.world().applied.push(change),
                }
            }
            sql if sql.starts_with(super::WITNESS) => {
                let change = args.first().cloned().unwrap_or_default();
                let was_made = self.server.applied(&change) > 0;
                self.server.world().log.push(format!("witness of {change}: {was_made}"));
                rows.extend(was_made.then(|| vec![1_i32.to_be_bytes().to_vec().into()]));
            }
            "SELECT pg_backend_pid()" => rows.push(vec![self.pid.to_be_bytes().to_vec().into()]),
            sql if sql.starts_with(super::IS_BUSY) => {
                let pid = args.first().and_then(|pid| pid.parse::<i32>().ok());
                let is_busy = self.server.world().busy.iter().any(|busy| Some(*busy) == pid);
                rows.extend(is_busy.then(|| vec![1_i32.to_be_bytes().to_vec().into()]));
            }
            other => panic!("the simulation does not know {other:?}"),
        }
        Self::let_go(after)?;
        for row in rows {
            self.message(b'D', |body| {
                body.put_u16(u16::try_from(row.len()).unwrap());
                for cell in row {
                    body.put_u32(u32::try_from(cell.len()).unwrap());
                    body.put(cell);
                }
            });
        }
        self.complete(tag);
        Ok(Ok(()))
    }

    /// An error ends the transaction that it happens in.
    fn failed(&mut self, state: &'static str) -> State {
        if let Some(open) = &mut self.transaction {
            open.has_failed = true;
        }
        State(state)
    }

    fn describe(&mut self, body: &mut Bytes) {
        body.advance(1);
        let sql = self.statements.get(&text(body)).cloned().unwrap_or_default();
        let parameters = match sql.as_str() {
            sql if sql.starts_with(super::CREATE) => CREATED.to_vec(),
            sql if sql.starts_with(super::IS_BUSY) => vec![INT4],
            sql if sql.starts_with(super::WITNESS) => vec![TEXT; 2],
            sql => vec![TEXT; sql.matches('$').count()],
        };
        self.message(b't', |body| {
            body.put_u16(u16::try_from(parameters.len()).unwrap());
            for of in &parameters {
                body.put_u32(*of);
            }
        });
        let columns: &[u32] = match sql.as_str() {
            sql if sql.starts_with(super::READ) => &[TEXT, INT8],
            sql if sql.starts_with(super::CREATE) => &[],
            _ => &[INT4],
        };
        if columns.is_empty() {
            return self.message(b'n', |_| {});
        }
        self.message(b'T', |body| {
            body.put_u16(u16::try_from(columns.len()).unwrap());
            for of in columns {
                body.put_slice(b"c\0");
                body.put_u32(0);
                body.put_u16(0);
                body.put_u32(*of);
                body.put_i16(-1);
                body.put_i32(-1);
                body.put_u16(1);
            }
        });
    }

    fn bind(&mut self, body: &mut Bytes) {
        let (_, name) = (text(body), text(body));
        let formats = usize::from(body.get_u16());
        body.advance(2 * formats);
        let args = (0..body.get_u16()).map(|_| {
            // A length of -1 is no value.
            let length = usize::try_from(body.get_i32()).unwrap_or(0);
            let value = body.split_to(length);
            match <[u8; 4]>::try_from(&value[..]) {
                Ok(number) if !value.is_ascii() || number[0] == 0 => i32::from_be_bytes(number).to_string(),
                _ => String::from_utf8_lossy(&value).into_owned(),
            }
        });
        self.bound = (self.statements.get(&name).cloned().unwrap_or_default(), args.collect());
    }

    fn message(&mut self, kind: u8, write: impl FnOnce(&mut BytesMut)) {
        let mut body = BytesMut::new();
        write(&mut body);
        self.out.put_u8(kind);
        self.out.put_u32(u32::try_from(body.len() + 4).unwrap());
        self.out.put(body);
    }

    fn complete(&mut self, tag: &str) {
        let tag = tag.to_owned();
        self.message(b'C', |body| {
            body.put_slice(tag.as_bytes());
            body.put_u8(0);
        });
    }

    fn ready(&mut self) {
        let status = match &self.transaction {
            None => b'I',
            Some(open) if open.has_failed => b'E',
            Some(_) => b'T',
        };
        self.message(b'Z', |body| body.put_u8(status));
    }

    fn error(&mut self, state: &State) {
        let fields = format!("SERROR\0VERROR\0C{}\0Mas it was told\0\0", state.0);
        self.message(b'E', |body| body.put_slice(fields.as_bytes()));
    }

    async fn flush(&mut self) -> Result<(), End> {
        let out = self.out.split();
        Ok(self.pipe.write_all(&out).await?)
    }
}

/// Text that ends with a zero.
fn text(body: &mut Bytes) -> String {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
    let text = String::from_utf8(body.split_to(end).to_vec()).unwrap_or_default();
    body.advance(1);
    text
}
