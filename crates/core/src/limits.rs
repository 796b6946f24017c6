//! Every bound of the product, in one place, with its unit in its name (promise P7).
//! A bound that a client can meet is named in the error that the client gets.

use std::time::Duration;

/// Largest request body, in bytes. Protects memory; a larger one is answered 413.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Levels of objects and arrays in one JSON document, from a body or built by a patch. Values are visited, copied and
/// dropped by recursion, so this protects the stack. Lower than the limit inside `serde_json` (128), so that stored
/// documents can be read.
pub const DOCUMENT_DEPTH_MAX: usize = 64;
/// Values in one JSON document. Protects memory and time: even a short text can hold many values.
pub const DOCUMENT_NODES_MAX: usize = 100_000;
/// Largest JSON document, in bytes of its text. Protects memory from documents that a patch or a merge builds.
pub const DOCUMENT_BYTES_MAX: usize = BODY_BYTES_MAX;
/// Default bound of the bytes in flight of all requests of one server: bodies, the values parsed from them, and
/// answers being sent. Protects the memory of the server. A request that would exceed it is answered 503.
pub const BYTES_IN_FLIGHT_DEFAULT: usize = 64 * 1024 * 1024;
/// Lowest value that may be set. Large requests have three quarters of it, and one address has a share of that, which
/// must hold the largest body and the values parsed from it.
pub const BYTES_IN_FLIGHT_MIN: usize = 32 * 1024 * 1024;
/// Divisor of the bytes in flight. A quarter is reserved for small requests; of either part, one address and one
/// project may hold a quarter each, so that neither can take all of it.
pub const BYTES_IN_FLIGHT_SHARES: usize = 4;
/// The bytes that each request takes when it begins, for its head, a small body and a small answer. More bytes are
/// taken in steps of this size.
pub const REQUEST_BYTES: usize = 4 * 1024;
/// Most bytes that a small request takes: enough to rotate, revoke or retire a secret.
pub const SMALL_REQUEST_BYTES_MAX: usize = 128 * 1024;
/// Part of the reserve for small requests that unknown callers may hold while the server waits for their bodies, as a
/// divisor. Protects requests that are complete from callers that send most of a body and stop.
pub const AWAITED_BODIES_SHARES: usize = 2;
/// Bytes of the reserve that one address may hold for such bodies beyond that part, so that a few addresses cannot
/// take the place of others.
pub const AWAITED_BODIES_PER_ADDRESS_BYTES: usize = 64 * 1024;
/// Default bound of a resource, in bytes of its JSON without the elements that the server adds. Versions are kept,
/// listed and copied, so this protects disk and memory. A larger resource that is stored already stays readable, and
/// may change if it does not grow.
pub const RESOURCE_BYTES_DEFAULT: usize = 64 * 1024;
/// The lowest bound of a resource that may be set; the highest is [`DOCUMENT_BYTES_MAX`].
pub const RESOURCE_BYTES_MIN: usize = 16 * 1024;
/// Largest request head (request line and headers), in bytes. A connection may send one before its caller is
/// authenticated, so this protects memory. A client certificate with its chain, forwarded by a proxy, fits.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a head that each connection may send without paying. A connection with a larger head pays for its whole
/// buffer, from the bytes in flight, until it ends.
pub const HEAD_BYTES_FREE: usize = 4 * 1024;
/// Bytes that one read takes from a connection. The buffer of a connection doubles when one read fills its free part
/// (8 KiB at first), so this keeps the buffer as small as the data that was sent.
pub const READ_BYTES_MAX: usize = 4 * 1024;
/// Largest body of a token request, in bytes. It is read before the caller is authenticated.
pub const TOKEN_FORM_BYTES_MAX: usize = 16 * 1024;
/// Largest body of a route below `/auth/`, in bytes: an address, a password and the parameters of an application.
/// Most of them are read before the caller is authenticated.
pub const AUTH_BODY_BYTES_MAX: usize = 16 * 1024;
/// Largest body of a route below `/admin/`, in bytes: the names, addresses and settings of one object.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest body of an operation on secrets, in bytes: two secrets and some parameters.
pub const SECRET_MOVE_BYTES_MAX: usize = 16 * 1024;
/// Largest form of a search, in bytes: as large as a query can be.
pub const SEARCH_FORM_BYTES_MAX: usize = HEAD_BYTES_MAX;
/// Approximate bound of the answer to a Bundle, in bytes. Entries after it are refused.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of stored resources that one page of a search or a history reads, including elements that the answer leaves
/// out. Protects memory. A heavier page ends early, with a link to the next one; each page has at least one resource.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// The largest `_offset` of a history. Protects the time of the database, which passes over the skipped versions.
pub const HISTORY_OFFSET_MAX: u32 = 1_000_000;
/// Log lines that wait to be written, in bytes. Protects memory, and protects requests from a log that nobody reads;
/// lines above it are lost and counted.
pub const LOG_QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// How long the process waits at its end for the last log lines to be written.
pub const LOG_FLUSH_MAX: Duration = Duration::from_secs(2);
/// How long a client may take to read [`WRITE_TIMEOUT_BYTES_MIN`] of an answer. Protects the memory of the answer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Fewest bytes that a client must read in [`WRITE_TIMEOUT`]: a client that reads byte by byte could hold an answer
/// without end.
pub const WRITE_TIMEOUT_BYTES_MIN: usize = 64 * 1024;
/// Most headers in one request. Protects memory and the time to parse a head.
pub const HEADERS_MAX: usize = 100;
/// How long a TLS handshake may take, so that a slow client does not keep its connection.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a server checks the files of the TLS certificate for changes.
pub const TLS_RELOAD_INTERVAL: Duration = Duration::from_mins(1);
/// Largest file with a TLS certificate or its key, in bytes. Protects memory.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long a client may take to send a request's head, or be idle between two requests, so that it does not keep its
/// connection.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to send a request's body, so that it does not keep its connection and its bytes.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to send a body of up to [`SMALL_BODY_BYTES_MAX`], or the first bytes of a larger one.
/// Protects the bytes in flight from callers that stop in the middle of a small body.
pub const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// See [`SMALL_BODY_TIMEOUT`]; the largest body that most callers may send before they are authenticated.
pub const SMALL_BODY_BYTES_MAX: usize = TOKEN_FORM_BYTES_MAX;
/// How long requests may take to finish after `SIGTERM`.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the server reads and discards what a client still sends after the last answer.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How many bytes it discards then.
pub const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Characters of a member's name that an error repeats. Protects the size of answers from names that a caller chose.
pub const MEMBER_NAME_CHARS_SHOWN: usize = 64;

/// Most connections open at once. Protects memory and file descriptors.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Most of them from one address, unless it is this machine or a trusted proxy, so that one host cannot take all.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 500;
/// Percentage of all connections that this machine, or one trusted proxy, may have. Each forwards for many clients;
/// the rest stays free for other addresses.
pub const CONNECTIONS_OF_MANY_PERCENT: usize = 90;
/// Connections beyond those bounds. Each gets one answer and is closed: health routes stay reachable for a probe, and
/// other requests are answered 503 instead of getting no answer.
pub const CONNECTION_RESERVE_MAX: usize = 64;
/// Most connections of the reserve for one address.
pub const CONNECTION_RESERVE_PER_ADDRESS_MAX: usize = 8;
/// How long a connection of the reserve may take, including its TLS handshake, so that its place becomes free again.
pub const CONNECTION_RESERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest presented secret that is verified, in bytes. Protects the time of a digest.
pub const SECRET_BYTES_MAX: usize = 1024;
/// Shortest secret that an admin may write directly while the secret policy is `strong`, in characters.
pub const SECRET_WRITTEN_CHARS_MIN: usize = 32;
/// Digests of former secrets kept per client, newest first. Protects the disk.
pub const FORMER_SECRETS_MAX: i64 = 100;

/// Shortest and longest lifetime of an access token.
pub const TOKEN_LIFETIME_MIN: Duration = Duration::from_secs(1);
/// See [`TOKEN_LIFETIME_MIN`].
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_hours(24);
/// Lifetime of an access token where the client application names none.
pub const TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_hours(1);
/// How long a key signs tokens where no other time is set.
pub const SIGNING_KEY_LIFETIME_DEFAULT: Duration = Duration::from_hours(90 * 24);
/// Shortest and longest time for which a key may be set to sign tokens.
pub const SIGNING_KEY_LIFETIME_MIN: Duration = Duration::from_hours(2 * 24);
/// See [`SIGNING_KEY_LIFETIME_MIN`].
pub const SIGNING_KEY_LIFETIME_MAX: Duration = Duration::from_hours(5 * 365 * 24);
/// How long a key is published before it signs: as long as anybody may keep the published keys.
pub const SIGNING_KEY_PUBLISH_AHEAD: Duration = Duration::from_hours(24);
/// How far the clocks of servers that share keys may be apart.
pub const SIGNING_KEY_SKEW: Duration = Duration::from_hours(1);
/// How long a key is published after it last signed: longer than any token lives.
pub const SIGNING_KEY_KEPT: Duration = TOKEN_LIFETIME_MAX.saturating_add(SIGNING_KEY_SKEW);
/// Most signing keys. The schedule needs four; more would only grow the published set.
pub const SIGNING_KEYS_MAX: usize = 16;
/// How often a server checks for new and expired keys.
pub const SIGNING_KEYS_INTERVAL: Duration = Duration::from_mins(1);
/// For how long the published keys and the metadata may be kept.
pub const METADATA_MAX_AGE: Duration = Duration::from_mins(5);
const _: () = assert!(
    METADATA_MAX_AGE.as_secs() + SIGNING_KEYS_INTERVAL.as_secs() <= SIGNING_KEY_PUBLISH_AHEAD.as_secs() / 2,
    "a cache of the published keys has the next key before it signs"
);
/// Longest access token that is verified, in bytes. Protects the time of a verification.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Bytes that one cache holds: of verified tokens, or of parsed policies. Callers choose their size, so a number of
/// entries would not bound the memory.
pub const CACHE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest `scope` of a token request, in bytes. A token carries it, so this bounds the size of tokens.
pub const SCOPE_BYTES_MAX: usize = 2048;
/// Most parameters in one form or query. Protects memory and the time to parse them.
pub const FORM_PARAMETERS_MAX: usize = 64;

/// Reads of one kind that may wait for their turn. Protects memory and waiting times; one more is refused with 503.
pub const READ_QUEUE_MAX: usize = 8192;
/// Reads answered by one query.
pub const READ_GROUP_MAX: usize = 64;
/// Writes that may wait for their turn. Protects memory and waiting times; one more is refused with 503.
pub const WRITE_QUEUE_MAX: usize = 1024;
/// Writes made durable by one commit.
pub const WRITE_GROUP_MAX: usize = 64;
/// How long a read waits for the database before it is refused with 503. A change waits as long for its
/// turn and its decision, as long again for its commit, and as long again to find out about a commit to
/// which no answer came.
pub const DATABASE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long one group read from PostgreSQL may take: half of what a request waits, so that whoever waits
/// behind one that hangs still has time to be read by the next.
pub const DATABASE_READ_MAX: Duration = Duration::from_millis(2_500);
/// How long one search, count or history may take in the database. Callers choose its cost and share few connections,
/// so a longer one is refused as `too-costly`.
pub const SEARCH_MAX: Duration = Duration::from_secs(2);
/// How long the statements of one change may take in SQLite. All other changes wait for it.
pub const CHANGE_MAX: Duration = Duration::from_secs(1);
/// Searches and histories of one project that run at the same time on one server, so that other projects find a free
/// connection.
pub const SEARCHES_PER_PROJECT_MAX: usize = 2;
/// Searches and histories of one project that wait for their turn on one server. Protects memory; one more is refused
/// with 429.
pub const SEARCHES_WAITING_PER_PROJECT_MAX: usize = 64;
/// Connections to SQLite that search, for each server: more than one project may use at the same time.
pub const SQLITE_SEARCHES_MAX: usize = 4;
const _: () = assert!(SEARCHES_PER_PROJECT_MAX < SQLITE_SEARCHES_MAX, "one project leaves room for others");
/// Connections to SQLite for each of the two other kinds of reads outside the group reads.
pub const SQLITE_READERS_MAX: usize = 2;
/// Connections to PostgreSQL that read, for each server, where nothing is set.
pub const DATABASE_READ_CONNECTIONS_DEFAULT: usize = 12;
/// Lowest value that may be set: one connection for each kind of read.
pub const DATABASE_READ_CONNECTIONS_MIN: usize = 6;
/// Connections to PostgreSQL that write, for each server, where nothing is set.
pub const DATABASE_WRITE_CONNECTIONS_DEFAULT: usize = 8;
/// Most connections that read, and most that write.
pub const DATABASE_CONNECTIONS_MAX: usize = 100;
/// How long PostgreSQL works on one statement, waits for one lock, or keeps a transaction that goes no
/// further: less than anybody waits, so that it says so itself and the connection stays of use.
pub const DATABASE_STATEMENT_MAX: Duration = Duration::from_secs(4);
/// How long an attempt to connect to one host of the database may take.
pub const DATABASE_CONNECT_MAX: Duration = Duration::from_secs(3);
/// Statements that a connection to PostgreSQL keeps prepared. Protects the memory of both sides.
pub const DATABASE_STATEMENTS_MAX: usize = 256;
/// How often a server checks the master key file for changes.
pub const MASTER_KEY_RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Rows that are read at once to be moved to another master key. Protects memory.
pub const RESEAL_ROWS: i64 = 200;
/// Values that one commit moves to another master key: few, so that other changes do not wait long.
pub const RESEAL_STATEMENTS: usize = 32;
/// Times that all rows are checked again for values that were sealed under an older key meanwhile.
pub const RESEAL_WALKS_MAX: usize = 10;
/// Longest line of an export, in bytes: one resource, with every character of it escaped.
pub const EXPORT_LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Pause before a job that stopped restarts, so that a job that fails each time does not use up a core.
pub const JOB_RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How often a server checks that every task of the store still runs.
pub const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// `Retry-After` of a 503.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Secrets whose use is counted in memory between two flushes. Protects memory; the others are summed as one.
pub const USAGE_SECRETS_MAX: usize = 100_000;
/// Callers that are counted separately for each secret, in memory and in the database; others are summed.
pub const USAGE_CALLERS_PER_SECRET_MAX: usize = 1024;
/// Callers that are counted separately in the database, over all projects. Protects the disk. Above it, those callers
/// of the project with the most that were seen longest ago are summed, so that one project cannot delete the evidence
/// of another.
pub const USAGE_CALLERS_STORED_MAX: i64 = 4_000_000;
/// Callers that are counted separately in the database for one project: a quarter of all.
pub const USAGE_CALLERS_STORED_PER_PROJECT_MAX: i64 = USAGE_CALLERS_STORED_MAX / 4;
/// How often callers past these bounds are summed.
pub const USAGE_CALLERS_SWEEP_INTERVAL: Duration = Duration::from_mins(1);
/// Callers that are counted separately in memory, over all secrets, between two flushes. Protects memory.
pub const USAGE_CALLERS_MAX: usize = 50_000;
/// Minutes that are counted separately for each secret until they are recorded; older ones would be deleted at once.
pub const USAGE_MINUTES_PER_SECRET_MAX: usize = 25 * 60;
const _: () = assert!(USAGE_MINUTES_PER_SECRET_MAX as u64 * 60 == USAGE_MINUTES_KEPT.as_secs());
/// Minutes that are counted separately in memory, over all secrets. Protects memory; above it, each secret has one
/// minute, which moves on.
pub const USAGE_MINUTES_MAX: usize = 3 * USAGE_SECRETS_MAX;
/// How much of a `User-Agent` and an `X-Client-Instance` is kept, in bytes.
pub const PRESENTER_TEXT_BYTES_MAX: usize = 128;
/// How long a caller must not have used a retiring secret to count as moved to the new one.
pub const EVIDENCE_SETTLED_AFTER: Duration = Duration::from_mins(5);
/// How long a caller that was not seen to move must have been absent, where the request names no time.
pub const EVIDENCE_UNUSED_FOR_DEFAULT: Duration = Duration::from_hours(24);
/// Callers that the reason against retiring a secret names. Protects the size of answers.
pub const EVIDENCE_NAMED_MAX: usize = 5;
/// How long a caller of a secret is remembered after it was last seen.
pub const USAGE_CALLERS_KEPT: Duration = Duration::from_hours(30 * 24);
/// How long the counts of single minutes are kept.
pub const USAGE_MINUTES_KEPT: Duration = Duration::from_hours(25);
/// A server that has recorded nothing for this long counts as incomplete.
pub const USAGE_SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often counted use is recorded.
pub const USAGE_FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// How long a decision that depends on the uses waits for other servers to record what they counted before.
pub const USAGE_SETTLED_WITHIN: Duration = Duration::from_secs(8);
/// How often that decision checks whether they have recorded it.
pub const USAGE_LOOKS_APART: Duration = Duration::from_millis(250);

/// Longest `Idempotency-Key`, in bytes. Protects the disk.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// How long an answer is kept for its `Idempotency-Key`.
pub const KEPT_ANSWER_LIFETIME: Duration = Duration::from_hours(24);
/// Answers that are kept for each client application. Protects the disk; above it, the oldest is deleted.
pub const KEPT_ANSWERS_PER_CLIENT_MAX: i64 = 16;

/// Entries in one Bundle. Protects the time and the memory of one request.
pub const BUNDLE_ENTRIES_MAX: usize = 100;
/// Statements of one transaction Bundle. In SQLite all other changes wait while they run.
pub const TRANSACTION_STATEMENTS_MAX: usize = 2000;
/// Rows in the search index for one resource. Protects the disk and the time of a change.
pub const INDEX_ROWS_MAX: usize = 500;
/// Values in one search, over all its parameters. Protects the time of the database.
pub const SEARCH_VALUES_MAX: usize = 200;
/// Values of one search that are matched inside texts (`:contains`) or by their system alone. Protects the database:
/// for each of them every row of the parameter is read.
pub const SEARCH_SCANS_MAX: usize = 8;
/// Longest name of a client application or project, in characters. Protects memory: it is read with every token.
pub const NAME_CHARS_MAX: usize = 256;
/// Largest AccessPolicy, in bytes. Protects the time of requests: each one reads it.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Most rules of either kind in an AccessPolicy. Protects the time of requests: each one checks them.
pub const POLICY_RULES_MAX: usize = 100;
/// Values in the criteria of one AccessPolicy, or in the queries of one scope. Protects the time of searches: each
/// one includes them.
pub const CRITERIA_VALUES_MAX: usize = 200;
/// Elements that one list of an AccessPolicy names. Protects the time of requests.
pub const POLICY_FIELDS_MAX: usize = 100;
/// Operations in one JSON Patch. Protects the time of one request.
pub const PATCH_OPERATIONS_MAX: usize = 100;
/// Versions that one page of a history lists.
pub const HISTORY_ENTRIES_MAX: u32 = 1000;
/// The shortest time after which a retiring secret may end by itself. A secret that must end sooner is retired at
/// once.
pub const RETIRE_AFTER_MIN: Duration = Duration::from_mins(1);
/// The longest time after which a retiring secret may end by itself.
pub const RETIRE_AFTER_MAX: Duration = Duration::from_hours(400 * 24);
/// The lowest maximum age of secrets: a rotation and its deployment need some time.
pub const MAXIMUM_AGE_MIN: Duration = Duration::from_hours(1);
/// The highest maximum age of secrets.
pub const MAXIMUM_AGE_MAX: Duration = Duration::from_hours(3650 * 24);
/// Most warnings before a deadline. Protects the number of events.
pub const WARN_BEFORE_TIMES_MAX: usize = 8;
/// Default rate of the changes of one member that is not an admin, in bytes a second. Protects the disk, where
/// written data stays long. A rotation writes about 5 KiB.
pub const CLIENT_CHANGE_RATE_DEFAULT: u64 = 16 * 1024;
/// Default rate of the changes of one project, in bytes a second. Members that are not admins may use half of its
/// burst, so that an admin can act while a client floods the project.
pub const PROJECT_CHANGE_RATE_DEFAULT: u64 = 256 * 1024;
/// Default bound of the resources of a project, without audit records and deleted resources. Protects the disk.
pub const PROJECT_RESOURCES_MAX_DEFAULT: i64 = 1_000_000;
/// How long a count of a project's resources is used before it is counted again.
pub const PROJECT_RESOURCES_COUNTED_EVERY: Duration = Duration::from_mins(1);
/// How much may be written at once, as the time in which the rate allows as much: 4 MiB for a client and 64 MiB for a
/// project by default.
pub const CHANGE_BURST: Duration = Duration::from_secs(256);
/// Clients and projects whose changes are remembered for these rates. Protects memory; above it, those that wrote
/// least are forgotten.
pub const CHANGE_RATE_KEYS_MAX: usize = 20_000;
/// Bytes that each statement of a change counts for, in addition to its values.
pub const STATEMENT_BYTES: u64 = 64;
/// Earlier versions of a resource that are kept, newest first. All versions of the last [`HISTORY_KEPT`] are kept
/// too, up to [`HISTORY_VERSIONS_MAX`]. Protects the disk from many changes to one resource.
pub const HISTORY_VERSIONS_KEPT: i64 = 100;
/// See [`HISTORY_VERSIONS_KEPT`].
pub const HISTORY_KEPT: Duration = Duration::from_hours(24);
/// Most earlier versions of a resource that are kept.
pub const HISTORY_VERSIONS_MAX: i64 = 1000;
/// Bytes that the earlier versions of a resource may take, estimated by the size of its latest version. Fewer
/// versions of a large resource are kept.
pub const HISTORY_BYTES_MAX: i64 = 16 * 1024 * 1024;
/// Fewest earlier versions that are kept, whatever their size.
pub const HISTORY_VERSIONS_MIN: i64 = 10;
/// Earlier versions are deleted at every so many changes of a resource, so that many versions more than the bounds
/// may exist meanwhile.
pub const HISTORY_TRIM_INTERVAL: i64 = 16;
/// Most versions that one change deletes, so that no change takes long.
pub const HISTORY_TRIMMED_AT_ONCE: i64 = 200;
/// Times that a change is decided again after a concurrent change came first.
pub const CONFLICT_RETRIES_MAX: usize = 100;

/// Attempts in a burst that one address may make to log in by a password, a code or another proof, including correct
/// ones. Protects the time that hashes take.
pub const LOGIN_ATTEMPTS_PER_ADDRESS_MAX: u32 = 100;
/// How long it takes until one attempt is forgiven.
pub const LOGIN_ATTEMPT_FORGIVEN_AFTER: Duration = Duration::from_millis(500);
/// Failed proofs that one address may send in a burst before it is answered 429. Failures of clients and failures of
/// people are counted separately, so that neither blocks the other.
pub const FAILURES_PER_ADDRESS_MAX: u32 = 100;
/// Failed proofs for one client id before further *failures* are answered 429; a correct secret still works.
pub const FAILURES_PER_CLIENT_MAX: u32 = 100;
/// How long it takes until one failure is forgiven.
pub const FAILURE_FORGIVEN_AFTER: Duration = Duration::from_secs(1);
/// Time from the beginning of a client's request to its refusal: longer than any reason for a refusal takes, so that
/// the time does not reveal the reason.
pub const REFUSED_AFTER: Duration = Duration::from_millis(5);
/// Addresses and client ids whose failures are remembered. Protects memory.
pub const FAILURE_KEYS_MAX: usize = 50_000;
/// How long a login may take, from the password to the consent.
pub const LOGIN_LIFETIME: Duration = Duration::from_mins(10);
/// Open logins of one person, and as many that are unfinished or have ended; above it, the least recently used one
/// ends. Protects the time of the change that sets a new password, which ends them all.
pub const SESSIONS_PER_PERSON_MAX: i64 = 100;
/// How long an authorization code can be redeemed (RFC 6749 §4.1.2 recommends ten minutes at most).
pub const CODE_LIFETIME: Duration = Duration::from_mins(1);
/// How long a refresh token that was used returns its successor again, because a reply may be lost.
pub const REFRESH_GRACE: Duration = Duration::from_secs(10);
/// How long tokens can be refreshed where the client application says nothing.
pub const REFRESH_TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_hours(30 * 24);
/// How long a link that sets a password works.
pub const SET_PASSWORD_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// Longest parameter of an authorization request, in bytes. Protects the rows of logins, which store them.
pub const AUTHORIZE_PARAMETER_BYTES_MAX: usize = 2048;
/// Longest redirect URI, in bytes: it must fit into an authorization request.
pub const REDIRECT_URI_BYTES_MAX: usize = AUTHORIZE_PARAMETER_BYTES_MAX;
/// Wrong passwords or codes in a row before an account has to wait.
pub const LOGIN_FAILURES_FREE: u32 = 5;
/// Accounts whose failures this server remembers. Protects memory; above it, a login to any other account is refused
/// for [`LOGIN_WAIT_FIRST`].
pub const LOGIN_FAILURES_REMEMBERED_MAX: usize = 10_000;
/// Accounts whose failures are recorded at the same time.
pub const LOGIN_FAILURES_WRITTEN_AT_ONCE: usize = 16;
/// How long an account waits after the first failure beyond these; each further failure doubles the wait.
pub const LOGIN_WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait of an account, so that an attacker cannot lock it for ever.
pub const LOGIN_WAIT_MAX: Duration = Duration::from_mins(15);
/// Accounts of one email address that a password is checked against: those that have had the address longest. Each
/// login computes this many hashes, whatever the number of accounts, so that its time does not reveal it.
pub const LOGIN_ACCOUNTS_MAX: usize = 4;
/// Longest address of a person, in bytes (RFC 5321 §4.5.3.1).
pub const EMAIL_BYTES_MAX: usize = 254;
/// Shortest password that may be chosen, in characters.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Longest password that is hashed, in bytes. Protects the time of a hash.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Passwords that may wait to be hashed; one more is refused with 503.
pub const PASSWORD_QUEUE_MAX: usize = 64;
/// Passwords from one address that may wait, so that one address cannot fill the queue.
pub const PASSWORD_QUEUE_PER_ADDRESS_MAX: usize = PASSWORD_QUEUE_MAX / 2;
/// Passwords hashed at once: each takes a core and 19 MiB.
pub const PASSWORDS_AT_ONCE_MAX: usize = 2;
/// Largest key set of a client, in bytes. Protects memory and disk.
pub const JWKS_BYTES_MAX: usize = 64 * 1024;
/// Most keys in it. Protects the time of authentication, which may try each.
pub const CLIENT_KEYS_MAX: usize = 16;
/// Smallest RSA modulus of a client's key, in bits (RFC 7518 §3.3): a smaller one can be factored.
pub const RSA_MODULUS_BITS_MIN: usize = 2048;
/// Largest RSA modulus of a client's key, in bits. Protects the time to verify a signature; the library accepts no
/// larger one.
pub const RSA_MODULUS_BITS_MAX: usize = 8192;
/// Fewest bits of the public exponent, which makes 65537 the smallest one (FIPS 186-5 §5.1).
pub const RSA_EXPONENT_BITS_MIN: usize = 17;
/// Most bits of the public exponent. Protects the time to verify a signature.
pub const RSA_EXPONENT_BITS_MAX: usize = 33;
/// Largest trust store of a client, in bytes. Protects memory and disk.
pub const TRUST_STORE_BYTES_MAX: usize = 64 * 1024;
/// Most certificates in it. Protects the time of authentication.
pub const TRUSTED_CERTIFICATES_MAX: usize = 16;
/// Most certificates that are checked between a client's certificate and one in its trust store. Protects the time of
/// authentication.
pub const CLIENT_CHAIN_MAX: usize = 8;
/// Longest URL that this server connects to, in bytes: of a client's key set, of a webhook.
pub const OUTBOUND_URI_BYTES_MAX: usize = 2048;
/// How long connecting to one of the addresses of a name may take.
pub const OUTBOUND_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that TLS may add to an answer to this server: a handshake with its certificates. Protects memory and
/// traffic.
pub const OUTBOUND_TLS_BYTES_MAX: usize = 64 * 1024;
/// Largest head of an answer to this server, in bytes, including all informational responses before it. Protects
/// memory.
pub const OUTBOUND_HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long fetching a key set may take, from looking the name up to the last byte.
pub const JWKS_FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Key sets that are fetched at once; one more waits, and gives up after [`JWKS_FETCH_TIMEOUT`].
pub const JWKS_FETCHES_AT_ONCE_MAX: usize = 32;
/// Shortest time between two requests to one URL, whatever its answer. Protects the host of the URL.
pub const JWKS_FETCH_INTERVAL: Duration = Duration::from_secs(10);
const _: () = assert!(
    JWKS_FETCH_INTERVAL.as_secs() > JWKS_FETCH_TIMEOUT.as_secs(),
    "a caller that waited for a failed fetch does not begin another"
);
/// How long a fetched key set is used without a new fetch if its `Cache-Control` names no time.
pub const JWKS_FRESH_DEFAULT: Duration = Duration::from_mins(5);
/// The longest that a fetched key set is used without a new fetch, whatever its `Cache-Control`.
pub const JWKS_FRESH_MAX: Duration = Duration::from_hours(1);
/// How long a fetched key set is used while new fetches fail.
pub const JWKS_KEPT_MAX: Duration = Duration::from_hours(6);
/// Most fetched key sets that are kept. Protects memory.
pub const JWKS_ENTRIES_MAX: usize = 1000;
/// Most bytes of fetched key sets that are kept. Protects memory.
pub const JWKS_KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest remaining lifetime of a client assertion (SMART App Launch 2.2, "Backend Services"). Bounds how long
/// its use is remembered.
pub const ASSERTION_LIFETIME_MAX: Duration = Duration::from_mins(5);
/// How far a client's clock may be ahead.
pub const ASSERTION_SKEW: Duration = Duration::from_secs(30);
/// Longest `jti` of a client assertion, in bytes. Protects the disk, where it is remembered.
pub const JTI_BYTES_MAX: usize = 256;
/// Longest origin of a page in a browser, in bytes.
pub const ORIGIN_BYTES_MAX: usize = 255;
/// How long a browser may cache the answer to a preflight request.
pub const PREFLIGHT_LIFETIME: Duration = Duration::from_mins(10);
/// How often expired rows are deleted: logins, revocations, assertions.
pub const SWEEP_INTERVAL: Duration = Duration::from_mins(10);
/// Expired rows of one table that one change deletes: few, so that other changes do not wait long.
pub const SWEEP_ROWS: i64 = 1000;
/// Changes of one sweep; the next sweep continues.
pub const SWEEP_CHANGES_MAX: usize = 1000;
/// How long an initial access token of client registration works if its author names no time.
pub const REGISTRATION_GRANT_LIFETIME_DEFAULT: Duration = Duration::from_hours(24);
/// The longest that it may work.
pub const REGISTRATION_GRANT_LIFETIME_MAX: Duration = Duration::from_hours(90 * 24);
/// Most clients that one initial access token may register.
pub const REGISTRATION_GRANT_USES_MAX: i64 = 1000;
/// Initial access tokens of one project that work at the same time. Protects the disk, where they stay for up to 90
/// days, and the answer that lists them all.
pub const REGISTRATION_GRANTS_PER_PROJECT_MAX: usize = 1000;
/// Largest body of a client registration, in bytes: a key set and some metadata.
pub const REGISTRATION_BYTES_MAX: usize = JWKS_BYTES_MAX + 64 * 1024;
/// Most redirect URIs of a client that registers itself.
pub const REDIRECT_URIS_MAX: usize = 32;
/// Problems in the audit records that are listed; the others are only counted.
pub const AUDIT_FINDINGS_MAX: usize = 100;
/// The least time between two audit records of the refused proofs of one client, from one server.
pub const AUDIT_REFUSALS_INTERVAL: Duration = Duration::from_mins(10);
/// Clients whose refused proofs are remembered. Protects memory; above it, the refusals of the projects with the most
/// clients are recorded at once.
pub const AUDIT_REFUSALS_CLIENTS_MAX: usize = 10_000;
/// Callers that such a record names.
pub const AUDIT_REFUSALS_CALLERS_MAX: usize = 20;
/// Secrets that such a record names.
pub const AUDIT_REFUSALS_SECRETS_MAX: usize = 20;
/// Such records in one change.
pub const AUDIT_REFUSALS_PER_CHANGE: usize = 50;

/// How long events are kept, for streams that resume and for deliveries that were given up.
pub const EVENTS_KEPT: Duration = Duration::from_hours(4 * 24);
/// Most events that are kept over all projects. Protects the disk. Above it, the project with the most events loses
/// its oldest, so that one tenant cannot delete the events of another.
pub const EVENTS_MAX: i64 = 200_000;
/// Most events that are kept for one project, newest first: a quarter of the disk that events may take.
pub const EVENTS_PER_PROJECT_MAX: i64 = EVENTS_MAX / 4;
/// How often events beyond these bounds are deleted.
pub const EVENTS_SWEEP_INTERVAL: Duration = Duration::from_mins(1);
/// Events that one change deletes: few, so that other changes do not wait long.
pub const EVENTS_SWEPT_AT_ONCE: usize = 200;
/// Such changes in one sweep; the next sweep continues.
pub const EVENTS_SWEEP_CHANGES_MAX: usize = 1000;
/// Most webhooks of a project. Bounds the deliveries that each event makes.
pub const WEBHOOKS_PER_PROJECT_MAX: i64 = 10;
/// How long an attempt at a delivery may take, from looking the name up to the last byte.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of the answer to a delivery is read, in bytes; its content does not matter.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Webhooks that one server delivers to at once; the others wait for their turn.
pub const WEBHOOK_TURNS_AT_ONCE_MAX: usize = 32;
/// Deliveries to one webhook under way at once.
pub const WEBHOOK_DELIVERIES_PER_TURN: usize = 8;
/// Deliveries of one server under way at once: as many as there can be, so that none waits for a receiver of
/// another webhook.
pub const WEBHOOK_DELIVERIES_AT_ONCE_MAX: usize = WEBHOOK_TURNS_AT_ONCE_MAX * WEBHOOK_DELIVERIES_PER_TURN;
/// How long one webhook is delivered to before others have their turn; what is under way then is finished.
pub const WEBHOOK_TURN: Duration = Duration::from_secs(5);
/// How long a server has a webhook to itself. A server that dies meanwhile loses the webhook after this time.
pub const WEBHOOK_LEASE: Duration = Duration::from_secs(30);
const _: () = assert!(
    WEBHOOK_TURN.as_secs() + WEBHOOK_TIMEOUT.as_secs() + DATABASE_WAIT_MAX.as_secs() * 2
        < WEBHOOK_LEASE.as_secs(),
    "a turn ends before somebody else may take it, with clocks that are some seconds apart"
);
/// How often a server looks for due deliveries, in addition to those that it created itself.
pub const WEBHOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two looks for deliveries that this server created itself.
pub const WEBHOOK_WAKES_APART: Duration = Duration::from_millis(50);
/// How long after the first failure a delivery is retried. Each further wait is longer.
pub const WEBHOOK_RETRY_FIRST: Duration = Duration::from_secs(5);
/// The longest wait before a delivery is retried; up to a fifth is added or subtracted at random.
pub const WEBHOOK_RETRY_MAX: Duration = Duration::from_hours(6);
/// The longest pause of a webhook after failures.
pub const WEBHOOK_REST_MAX: Duration = Duration::from_mins(5);
/// How long a delivery is retried before it is given up.
pub const WEBHOOK_TRIED_FOR: Duration = Duration::from_hours(3 * 24);
const _: () = assert!(WEBHOOK_TRIED_FOR.as_secs() < EVENTS_KEPT.as_secs(), "what is tried is kept");
/// How long the previous signing secret still signs, where the rotation names no time.
pub const WEBHOOK_OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
/// The longest time that a rotation may name.
pub const WEBHOOK_OVERLAP_MAX: Duration = Duration::from_hours(30 * 24);
/// How often a server looks for deadlines that are near or have passed.
pub const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often a server looks at all clients for secrets that exceed their maximum age, or soon will.
pub const MAXIMUM_AGE_INTERVAL: Duration = Duration::from_mins(10);
/// How far back each look reaches: longer than a change takes to become visible, and than clocks differ.
pub const EXPIRY_LOOK_BACK: Duration = Duration::from_mins(10);
/// Deadlines that are read at once; the others follow.
pub const EXPIRY_ROWS: i64 = 200;
/// How often a use of one former secret is reported.
pub const FORMER_SEEN_INTERVAL: Duration = Duration::from_hours(1);
/// Former secrets that a server remembers as reported. Protects memory; above it, the server asks the database.
pub const FORMER_SEEN_REMEMBERED_MAX: usize = 10_000;
/// Streams of events that one server keeps open. When all are taken, a project with fewer streams takes one from the
/// project with the most, so that no tenant keeps others from listening.
pub const STREAMS_MAX: usize = 200;
/// Streams of events of one project that one server keeps open.
pub const STREAMS_PER_PROJECT_MAX: usize = 20;
/// How often a server with open streams looks for events of other servers.
pub const STREAM_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two looks.
pub const STREAM_WAKES_APART: Duration = Duration::from_millis(50);
/// How long a stream is silent before the server sends a heartbeat, to detect a broken connection, and checks that
/// the caller is still permitted to read it.
pub const STREAM_HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a reader waits before it reconnects after the connection broke.
pub const STREAM_RETRY: Duration = Duration::from_secs(3);
/// Events that a stream reads at once.
pub const STREAM_EVENTS_AT_ONCE: i64 = 100;
/// Pieces of a stream that wait to be sent; the server reads no more events until one is sent.
pub const STREAM_QUEUE_MAX: usize = 4;

/// Most links in the path of a file that a command writes. Ends a circle of links.
pub const PATH_LINKS_MAX: usize = 40;
/// Largest file that a command changes, in bytes. Protects memory: the command reads the whole file.
pub const CHANGED_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long a command waits for the lock of a file that it changes. Another user could hold the lock without end.
pub const FILE_LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How many times a command locks a file again because the file was replaced before the lock was held.
pub const FILE_LOCK_RETRIES_MAX: usize = 1000;
/// How long `keyrelay keys` waits for another `keyrelay keys` on the same file or database to end.
pub const KEYS_LOCK_WAIT_MAX: Duration = Duration::from_mins(1);
/// Longest answer that a command reads, in bytes. Protects memory: another program may answer, and send without end.
pub const COMMAND_ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Default time that a command of `--exec` may take; `keyrelay rotate` waits for it.
pub const EXEC_TIMEOUT_DEFAULT: Duration = Duration::from_mins(15);
/// How long such a command may take to end after it was asked to, before it is killed.
pub const EXEC_GRACE: Duration = Duration::from_secs(5);
