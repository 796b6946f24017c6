//! Every bound of the product, in one place, with its unit in its name (promise P7).
//! A bound that a client can meet is named in the error that the client gets.

use std::time::Duration;

/// Largest request body, in bytes; a larger one is answered 413.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Levels of objects and arrays in one JSON document, whoever builds it: values are visited, copied and dropped by
/// recursion, so this protects the stack. Lower than the limit inside `serde_json` (128), so that what is stored
/// can be read.
pub const DOCUMENT_DEPTH_MAX: usize = 64;
/// Values in one JSON document: each takes memory and time, however short its text is.
pub const DOCUMENT_NODES_MAX: usize = 100_000;
/// Largest JSON document, in bytes of its text; it protects memory from what a patch or a merge builds.
pub const DOCUMENT_BYTES_MAX: usize = BODY_BYTES_MAX;
/// Bytes in flight for all requests of one server, where nothing is set: bodies, what is parsed from them, and answers
/// on their way out. One more byte is answered 503.
pub const BYTES_IN_FLIGHT_DEFAULT: usize = 64 * 1024 * 1024;
/// Fewest that may be set: a quarter of three quarters of it must hold the largest body and what it is parsed to.
pub const BYTES_IN_FLIGHT_MIN: usize = 32 * 1024 * 1024;
/// Of the bytes in flight one address, and one project, has no more than one in so many. As much is kept for small
/// requests.
pub const BYTES_IN_FLIGHT_SHARES: usize = 4;
/// The bytes that each request takes at its beginning, for its head, a small body and a small answer; others are taken
/// in steps of as many.
pub const REQUEST_BYTES: usize = 4 * 1024;
/// Most bytes that a small request takes: enough to rotate, revoke or retire a secret.
pub const SMALL_REQUEST_BYTES_MAX: usize = 128 * 1024;
/// Largest resource, in bytes of its JSON without what the server adds, where nothing else is set. Versions are kept,
/// listed and copied, so this protects the disk and the memory. Existing larger ones stay readable, and may change
/// where they do not grow.
pub const RESOURCE_BYTES_DEFAULT: usize = 64 * 1024;
/// The lowest bound of resources that may be set; the highest is [`DOCUMENT_BYTES_MAX`].
pub const RESOURCE_BYTES_MIN: usize = 16 * 1024;
/// Largest request head (request line and headers), in bytes. Every connection may send one before anyone is known, so
/// this protects memory. A client certificate with its chain, forwarded by a proxy, fits.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a head that every connection may send without paying. A connection with a larger head pays for all of its
/// buffer, from the bytes in flight, until it ends.
pub const HEAD_BYTES_FREE: usize = 4 * 1024;
/// Bytes that are read from a connection at once. The buffer of a connection doubles whenever one read fills what is
/// free in it (8 KiB at first), so this keeps it as large as what was sent.
pub const READ_BYTES_MAX: usize = 4 * 1024;
/// Largest body of a token request, in bytes: it is read before anyone is known.
pub const TOKEN_FORM_BYTES_MAX: usize = 16 * 1024;
/// Largest body of a route below `/auth/`, in bytes: an address, a password and what an application asks for. Most of
/// them are read before anyone is known.
pub const AUTH_BODY_BYTES_MAX: usize = 16 * 1024;
/// Largest body of a route below `/admin/`, in bytes: the names, addresses and settings of one thing.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest body of an operation that moves secrets, in bytes: two secrets, and how they are to be moved.
pub const SECRET_MOVE_BYTES_MAX: usize = 16 * 1024;
/// Largest form of a search, in bytes: as much as fits into a query.
pub const SEARCH_FORM_BYTES_MAX: usize = HEAD_BYTES_MAX;
/// About how large the answer to a Bundle may become, in bytes; then further entries are refused.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How many bytes of stored resources one page of a search or of a history reads, before anything is left out of
/// them. A page that would be heavier ends early, with a link to the next; it has one resource at least.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// The largest `_offset` of a history.
pub const HISTORY_OFFSET_MAX: u32 = 1_000_000;
/// Lines of the log that wait to be written, in bytes; a line past it is lost and counted. It protects requests from
/// a log that nobody reads, and memory from the lines.
pub const LOG_QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// How long the end of the process waits for the last lines of the log to be written.
pub const LOG_FLUSH_MAX: Duration = Duration::from_secs(2);
/// How long a client may take none of what is sent to it.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Fewest bytes that it must take meanwhile: whoever takes one at a time would hold an answer for ever.
pub const WRITE_TIMEOUT_BYTES_MIN: usize = 64 * 1024;
/// Most headers in one request.
pub const HEADERS_MAX: usize = 100;
/// How long a TLS handshake may take.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files of the TLS certificate are looked at for something new.
pub const TLS_RELOAD_INTERVAL: Duration = Duration::from_mins(1);
/// Largest file with a TLS certificate or its key, in bytes.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long a client may take to send a request's head, or be idle between two requests.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to send a request's body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may take to finish after `SIGTERM`.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long, and how much, of what a client still sends after the last answer is read and thrown away.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// See [`LINGER_TIMEOUT`], in bytes.
pub const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Characters of a member's name that an error repeats: protects answers from what somebody sent.
pub const MEMBER_NAME_CHARS_SHOWN: usize = 64;

/// Most connections open at once.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Most of them from one address, unless it is this machine or a trusted proxy.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 500;
/// Of all connections, how many parts of a hundred this machine, or one trusted proxy, may have: each speaks for
/// many, and leaves the rest to others.
pub const CONNECTIONS_OF_MANY_PERCENT: usize = 90;
/// Connections beyond those, which are asked once and closed: they keep the health routes reachable for a probe, and
/// tell others that the server is full, instead of leaving them without an answer.
pub const CONNECTION_RESERVE_MAX: usize = 64;
/// Most of the reserve for one address.
pub const CONNECTION_RESERVE_PER_ADDRESS_MAX: usize = 8;
/// How long a connection of the reserve may take, with its TLS handshake: protects the places of the reserve.
pub const CONNECTION_RESERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest secret that is looked at, in bytes.
pub const SECRET_BYTES_MAX: usize = 1024;
/// Shortest secret that an admin may write directly while the secret policy is `strong`, in characters.
pub const SECRET_WRITTEN_CHARS_MIN: usize = 32;
/// Digests of former secrets kept per client, newest first.
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
/// Most signing keys. The schedule needs four.
pub const SIGNING_KEYS_MAX: usize = 16;
/// How often a server looks whether keys have come or are to go.
pub const SIGNING_KEYS_INTERVAL: Duration = Duration::from_mins(1);
/// For how long the published keys and the metadata may be kept.
pub const METADATA_MAX_AGE: Duration = Duration::from_mins(5);
const _: () = assert!(
    METADATA_MAX_AGE.as_secs() + SIGNING_KEYS_INTERVAL.as_secs() <= SIGNING_KEY_PUBLISH_AHEAD.as_secs() / 2,
    "whoever keeps the published keys has the next one before it signs"
);
/// Longest access token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How many bytes one cache holds: tokens whose signature has been verified, and policies that have been parsed.
/// Callers choose how large these are, so their number is no bound.
pub const CACHE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest `scope` of a token request, in bytes.
pub const SCOPE_BYTES_MAX: usize = 2048;
/// Most parameters in one form or query.
pub const FORM_PARAMETERS_MAX: usize = 64;

/// Reads of one kind that may wait for their turn; one more is refused with 503.
pub const READ_QUEUE_MAX: usize = 8192;
/// Reads answered by one query.
pub const READ_GROUP_MAX: usize = 64;
/// Writes that may wait for their turn; one more is refused with 503.
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
/// How long one search, count or history may take in the database. What takes longer is refused as `too-costly`:
/// a caller chooses its cost, and others wait for the same few connections.
pub const SEARCH_MAX: Duration = Duration::from_secs(2);
/// How long the statements of one change may take in SQLite. Everybody else's changes wait meanwhile.
pub const CHANGE_MAX: Duration = Duration::from_secs(1);
/// Searches and histories of one project under way at once on one server, so that those of other projects find
/// a connection free.
pub const SEARCHES_PER_PROJECT_MAX: usize = 2;
/// Searches and histories of one project that wait for their turn on one server; one more is refused with 429.
pub const SEARCHES_WAITING_PER_PROJECT_MAX: usize = 64;
/// Connections to SQLite that search, for each server: more than one project may have under way.
pub const SQLITE_SEARCHES_MAX: usize = 4;
const _: () = assert!(SEARCHES_PER_PROJECT_MAX < SQLITE_SEARCHES_MAX, "one project leaves room for others");
/// Connections to SQLite for each of the two other kinds of reads outside the group reads.
pub const SQLITE_READERS_MAX: usize = 2;
/// Connections to PostgreSQL that read, for each server, where nothing is set.
pub const DATABASE_READ_CONNECTIONS_DEFAULT: usize = 12;
/// Fewest of them: one for each kind of read.
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
/// Statements that a connection to PostgreSQL keeps prepared.
pub const DATABASE_STATEMENTS_MAX: usize = 256;
/// How often the master key file is looked at for something new.
pub const MASTER_KEY_RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// Rows that are read at once to be moved to another master key.
pub const RESEAL_ROWS: i64 = 200;
/// Values that are moved to another master key by one commit: few, so that nobody waits long for it.
pub const RESEAL_STATEMENTS: usize = 32;
/// Times that everything is looked at again for values that were written under an older key meanwhile.
pub const RESEAL_WALKS_MAX: usize = 10;
/// Longest line of an export, in bytes: one resource, with every character of it escaped.
pub const EXPORT_LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long a job that stopped waits until it starts again, so that one that always stops takes no core.
pub const JOB_RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How often a server checks that everything it needs of the store is at work.
pub const STORE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// `Retry-After` of a 503.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Secrets whose use is counted in memory between two flushes; what is above is summed as one.
pub const USAGE_SECRETS_MAX: usize = 100_000;
/// Callers that are told apart for each secret, in memory and in the database; others are summed.
pub const USAGE_CALLERS_PER_SECRET_MAX: usize = 1024;
/// Callers that are told apart in the database, over all projects. Above it, the project that has most has those
/// summed that were not seen for longest: one project cannot fill the disk, nor take another's evidence.
pub const USAGE_CALLERS_STORED_MAX: i64 = 4_000_000;
/// Callers that are told apart in the database for one project: a quarter of all.
pub const USAGE_CALLERS_STORED_PER_PROJECT_MAX: i64 = USAGE_CALLERS_STORED_MAX / 4;
/// How often callers past these bounds are summed.
pub const USAGE_CALLERS_SWEEP_INTERVAL: Duration = Duration::from_mins(1);
/// Callers that are told apart in memory, over all secrets, between two flushes.
pub const USAGE_CALLERS_MAX: usize = 50_000;
/// Minutes that are told apart for each secret until they are written down; older ones would be forgotten at once.
pub const USAGE_MINUTES_PER_SECRET_MAX: usize = 25 * 60;
const _: () = assert!(USAGE_MINUTES_PER_SECRET_MAX as u64 * 60 == USAGE_MINUTES_KEPT.as_secs());
/// Minutes that are told apart in memory, over all secrets; past it, each secret has one that moves on.
pub const USAGE_MINUTES_MAX: usize = 3 * USAGE_SECRETS_MAX;
/// How much of a `User-Agent` and an `X-Client-Instance` is kept, in bytes.
pub const PRESENTER_TEXT_BYTES_MAX: usize = 128;
/// How long a caller must have left a retiring secret alone to have moved on from it.
pub const EVIDENCE_SETTLED_AFTER: Duration = Duration::from_mins(5);
/// How long a caller that was not seen to move must have stayed away, where whoever asks says nothing.
pub const EVIDENCE_UNUSED_FOR_DEFAULT: Duration = Duration::from_hours(24);
/// Callers that the reason against retiring a secret names.
pub const EVIDENCE_NAMED_MAX: usize = 5;
/// How long a caller of a secret is remembered after it was last seen.
pub const USAGE_CALLERS_KEPT: Duration = Duration::from_hours(30 * 24);
/// How long the counts of single minutes are kept.
pub const USAGE_MINUTES_KEPT: Duration = Duration::from_hours(25);
/// After how long without a word the counts of a server are taken for incomplete.
pub const USAGE_SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often counted use is written down.
pub const USAGE_FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// How long whoever decides by the uses waits for other servers to write down what they counted before.
pub const USAGE_SETTLED_WITHIN: Duration = Duration::from_secs(8);
/// How often it is looked whether they have.
pub const USAGE_LOOKS_APART: Duration = Duration::from_millis(250);

/// Longest `Idempotency-Key`, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// How long an answer is kept for its `Idempotency-Key`.
pub const KEPT_ANSWER_LIFETIME: Duration = Duration::from_hours(24);
/// Answers that are kept for each client application; the oldest goes for one more.
pub const KEPT_ANSWERS_PER_CLIENT_MAX: i64 = 16;

/// Entries in one Bundle.
pub const BUNDLE_ENTRIES_MAX: usize = 100;
/// Statements of one transaction Bundle: nobody else writes while they run.
pub const TRANSACTION_STATEMENTS_MAX: usize = 2000;
/// Rows in the search index for one resource.
pub const INDEX_ROWS_MAX: usize = 500;
/// Values in one search, over all its parameters.
pub const SEARCH_VALUES_MAX: usize = 200;
/// Values of a search that are looked for in the midst of texts (`:contains`), or by their system alone: for each,
/// every row of the parameter is looked at.
pub const SEARCH_SCANS_MAX: usize = 8;
/// Longest name of a client application or project, in characters: it is read with every token.
pub const NAME_CHARS_MAX: usize = 256;
/// Largest AccessPolicy, in bytes: it is read with every request.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Most rules of either kind in an AccessPolicy: they are checked with every request.
pub const POLICY_RULES_MAX: usize = 100;
/// Values in the criteria of one AccessPolicy, or in the queries of one scope: each is part of every search.
pub const CRITERIA_VALUES_MAX: usize = 200;
/// Elements that one list of an AccessPolicy names.
pub const POLICY_FIELDS_MAX: usize = 100;
/// Operations in one JSON Patch.
pub const PATCH_OPERATIONS_MAX: usize = 100;
/// Versions that one page of a history lists.
pub const HISTORY_ENTRIES_MAX: u32 = 1000;
/// The shortest time after which a retiring secret may end by itself: what is to end sooner is retired at once.
pub const RETIRE_AFTER_MIN: Duration = Duration::from_mins(1);
/// The longest.
pub const RETIRE_AFTER_MAX: Duration = Duration::from_hours(400 * 24);
/// The lowest maximum age of secrets: below it, a rotation and its deployment hardly fit into a life.
pub const MAXIMUM_AGE_MIN: Duration = Duration::from_hours(1);
/// The highest.
pub const MAXIMUM_AGE_MAX: Duration = Duration::from_hours(3650 * 24);
/// How many warnings a deadline has at most.
pub const WARN_BEFORE_TIMES_MAX: usize = 8;
/// Bytes a second that the changes of one member that is no admin may write, where nothing is set: what is written
/// stays on the disk for long. A rotation takes some 5 KiB.
pub const CLIENT_CHANGE_RATE_DEFAULT: u64 = 16 * 1024;
/// Bytes a second that the changes of one project may write, where nothing is set. Members take at most half of its
/// burst, so an admin can act while a client floods the project.
pub const PROJECT_CHANGE_RATE_DEFAULT: u64 = 256 * 1024;
/// Most resources of a project, where nothing is set: without audit records and deleted ones.
pub const PROJECT_RESOURCES_MAX_DEFAULT: i64 = 1_000_000;
/// How long the number of a project's resources is remembered.
pub const PROJECT_RESOURCES_COUNTED_EVERY: Duration = Duration::from_mins(1);
/// How long one may write at such a rate at once: 4 MiB for a client, 64 MiB for a project, where nothing is set.
pub const CHANGE_BURST: Duration = Duration::from_secs(256);
/// Clients and projects whose changes are remembered for these rates; above it, those that wrote least are forgotten.
pub const CHANGE_RATE_KEYS_MAX: usize = 20_000;
/// What a statement of a change weighs beside its values, in bytes.
pub const STATEMENT_BYTES: u64 = 64;
/// Earlier versions of a resource that are kept, newest first; and all of the last [`HISTORY_KEPT`], up to
/// [`HISTORY_VERSIONS_MAX`]. It bounds the disk that changes to one resource take.
pub const HISTORY_VERSIONS_KEPT: i64 = 100;
/// See [`HISTORY_VERSIONS_KEPT`].
pub const HISTORY_KEPT: Duration = Duration::from_hours(24);
/// Most earlier versions of a resource.
pub const HISTORY_VERSIONS_MAX: i64 = 1000;
/// Bytes that the earlier versions of a resource may take, by the size of its latest; fewer are kept of a large one.
pub const HISTORY_BYTES_MAX: i64 = 16 * 1024 * 1024;
/// Fewest earlier versions that are kept, however large they are.
pub const HISTORY_VERSIONS_MIN: i64 = 10;
/// Every how many versions older ones are deleted; as many may be above the bounds.
pub const HISTORY_TRIM_INTERVAL: i64 = 16;
/// Versions that one change deletes at most, so that it never takes long.
pub const HISTORY_TRIMMED_AT_ONCE: i64 = 200;
/// Times a change is decided again after somebody else was faster.
pub const CONFLICT_RETRIES_MAX: usize = 100;

/// Times in a burst that one address may send a password, a code or anything else to log in by, good ones too.
pub const LOGIN_ATTEMPTS_PER_ADDRESS_MAX: u32 = 100;
/// How long it takes until one of them is forgotten.
pub const LOGIN_ATTEMPT_FORGIVEN_AFTER: Duration = Duration::from_millis(500);
/// Failed proofs that one address may send in a burst before it is answered 429. Those of clients and those of people
/// are counted apart: neither keeps the other out.
pub const FAILURES_PER_ADDRESS_MAX: u32 = 100;
/// Failed proofs for one client id before further *failures* are answered 429; a correct secret still works.
pub const FAILURES_PER_CLIENT_MAX: u32 = 100;
/// How long it takes to be forgiven one failure.
pub const FAILURE_FORGIVEN_AFTER: Duration = Duration::from_secs(1);
/// When the proof of a client that is refused is answered, from its beginning: longer than any of the ways to a
/// refusal takes, so that the time does not tell which it was.
pub const REFUSED_AFTER: Duration = Duration::from_millis(5);
/// Addresses and client ids whose failures are remembered.
pub const FAILURE_KEYS_MAX: usize = 50_000;
/// How long a login may take, from the password to the consent.
pub const LOGIN_LIFETIME: Duration = Duration::from_mins(10);
/// Logins of one person that are open, and as many that are not finished or have ended; the one that was used least
/// recently ends for one more. Protects a new password, which ends them all in one change, from taking too long.
pub const SESSIONS_PER_PERSON_MAX: i64 = 100;
/// How long an authorization code can be redeemed (RFC 6749 §4.1.2 recommends ten minutes at most).
pub const CODE_LIFETIME: Duration = Duration::from_mins(1);
/// How long a refresh token that has passed gives its successor again: a reply may be lost.
pub const REFRESH_GRACE: Duration = Duration::from_secs(10);
/// How long tokens can be refreshed where the client application says nothing.
pub const REFRESH_TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_hours(30 * 24);
/// How long a link that sets a password works.
pub const SET_PASSWORD_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// Longest parameter of an authorization request, in bytes.
pub const AUTHORIZE_PARAMETER_BYTES_MAX: usize = 2048;
/// Longest redirect URI, in bytes: a request must be able to name it.
pub const REDIRECT_URI_BYTES_MAX: usize = AUTHORIZE_PARAMETER_BYTES_MAX;
/// Wrong passwords or codes in a row that cost an account nothing.
pub const LOGIN_FAILURES_FREE: u32 = 5;
/// Accounts whose failures this server remembers; past it, an account of which nothing is known waits.
pub const LOGIN_FAILURES_REMEMBERED_MAX: usize = 10_000;
/// Accounts whose failures are written at once.
pub const LOGIN_FAILURES_WRITTEN_AT_ONCE: usize = 16;
/// How long an account waits after the first wrong one beyond; it doubles with each further one.
pub const LOGIN_WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest that an account waits.
pub const LOGIN_WAIT_MAX: Duration = Duration::from_mins(15);
/// Accounts of one address that a password is checked against: those that have had the address for longest. Each
/// login makes as many hashes, however many accounts there are, so that its time does not tell.
pub const LOGIN_ACCOUNTS_MAX: usize = 4;
/// Longest address of a person, in bytes (RFC 5321 §4.5.3.1).
pub const EMAIL_BYTES_MAX: usize = 254;
/// Shortest password that may be chosen, in characters.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Longest password that is looked at, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Passwords that may wait to be hashed; one more is refused with 503.
pub const PASSWORD_QUEUE_MAX: usize = 64;
/// Of those, from one address: nobody takes all places alone.
pub const PASSWORD_QUEUE_PER_ADDRESS_MAX: usize = PASSWORD_QUEUE_MAX / 2;
/// Passwords hashed at once: each takes a core and 19 MiB.
pub const PASSWORDS_AT_ONCE_MAX: usize = 2;
/// Largest key set of a client, in bytes.
pub const JWKS_BYTES_MAX: usize = 64 * 1024;
/// Most keys in it.
pub const CLIENT_KEYS_MAX: usize = 16;
/// Smallest modulus of an RSA key that others are known by, in bits (RFC 7518 §3.3): a smaller one can be factored.
pub const RSA_MODULUS_BITS_MIN: usize = 2048;
/// Largest, in bits: protects the time that a signature takes to verify, and the library takes no larger one.
pub const RSA_MODULUS_BITS_MAX: usize = 8192;
/// Fewest bits of its public exponent, which makes 65537 the smallest (FIPS 186-5 §5.1).
pub const RSA_EXPONENT_BITS_MIN: usize = 17;
/// Most bits of its public exponent: protects the time that a signature takes to verify.
pub const RSA_EXPONENT_BITS_MAX: usize = 33;
/// Largest trust store of a client, in bytes.
pub const TRUST_STORE_BYTES_MAX: usize = 64 * 1024;
/// Most certificates in it.
pub const TRUSTED_CERTIFICATES_MAX: usize = 16;
/// Most certificates that are looked at between a client's and one in its trust store.
pub const CLIENT_CHAIN_MAX: usize = 8;
/// Longest URL that this server is asked to speak to, in bytes: of a client's key set, of a webhook.
pub const OUTBOUND_URI_BYTES_MAX: usize = 2048;
/// How long connecting to one of the addresses of a name may take.
pub const OUTBOUND_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What TLS may add to an answer to this server, in bytes: a handshake with its certificates.
pub const OUTBOUND_TLS_BYTES_MAX: usize = 64 * 1024;
/// Largest head of an answer to this server, in bytes, with all informational responses before it.
pub const OUTBOUND_HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long fetching a key set may take, from looking the name up to the last byte.
pub const JWKS_FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Key sets that are fetched at once; one more waits, and gives up after [`JWKS_FETCH_TIMEOUT`].
pub const JWKS_FETCHES_AT_ONCE_MAX: usize = 32;
/// How soon one URL may be asked again, whatever it answered and whoever wants to know.
pub const JWKS_FETCH_INTERVAL: Duration = Duration::from_secs(10);
const _: () = assert!(
    JWKS_FETCH_INTERVAL.as_secs() > JWKS_FETCH_TIMEOUT.as_secs(),
    "whoever waited for a fetch that failed does not begin another"
);
/// How long a fetched key set is taken as it is where its `Cache-Control` says nothing.
pub const JWKS_FRESH_DEFAULT: Duration = Duration::from_mins(5);
/// The longest that a fetched key set is taken as it is, whatever its `Cache-Control` says.
pub const JWKS_FRESH_MAX: Duration = Duration::from_hours(1);
/// How long a fetched key set is used while fetching it again fails.
pub const JWKS_KEPT_MAX: Duration = Duration::from_hours(6);
/// Most fetched key sets that are kept.
pub const JWKS_ENTRIES_MAX: usize = 1000;
/// Most bytes of fetched key sets that are kept.
pub const JWKS_KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest that a client assertion may still be good for (SMART App Launch 2.2, "Backend Services").
pub const ASSERTION_LIFETIME_MAX: Duration = Duration::from_mins(5);
/// How far a client's clock may be ahead.
pub const ASSERTION_SKEW: Duration = Duration::from_secs(30);
/// Longest `jti` of a client assertion, in bytes.
pub const JTI_BYTES_MAX: usize = 256;
/// Longest origin of a page in a browser, in bytes.
pub const ORIGIN_BYTES_MAX: usize = 255;
/// How long a browser may remember what it was told before a request from another origin.
pub const PREFLIGHT_LIFETIME: Duration = Duration::from_mins(10);
/// How often what is dead is forgotten: logins, revocations, assertions.
pub const SWEEP_INTERVAL: Duration = Duration::from_mins(10);
/// Dead rows of one table that are forgotten by one change: few, so that nobody waits long for it.
pub const SWEEP_ROWS: i64 = 1000;
/// Changes of one sweep; the next goes on.
pub const SWEEP_CHANGES_MAX: usize = 1000;
/// How long an initial access token of client registration works where its maker says nothing.
pub const REGISTRATION_GRANT_LIFETIME_DEFAULT: Duration = Duration::from_hours(24);
/// The longest that it may work.
pub const REGISTRATION_GRANT_LIFETIME_MAX: Duration = Duration::from_hours(90 * 24);
/// Most clients that one initial access token may register.
pub const REGISTRATION_GRANT_USES_MAX: i64 = 1000;
/// Initial access tokens of one project that work at a time; one answer lists them all. They stay in the database for
/// up to 90 days.
pub const REGISTRATION_GRANTS_PER_PROJECT_MAX: usize = 1000;
/// Largest body of a client registration, in bytes: a key set and some metadata.
pub const REGISTRATION_BYTES_MAX: usize = JWKS_BYTES_MAX + 64 * 1024;
/// Most redirect URIs of a client that registers itself.
pub const REDIRECT_URIS_MAX: usize = 32;
/// Things wrong with the audit records that are told one by one; the rest is counted.
pub const AUDIT_FINDINGS_MAX: usize = 100;
/// The least time between two audit records of the refused proofs of one client, from one server.
pub const AUDIT_REFUSALS_INTERVAL: Duration = Duration::from_mins(10);
/// Clients whose refused proofs wait to be recorded; above it, all are recorded at once.
pub const AUDIT_REFUSALS_CLIENTS_MAX: usize = 10_000;
/// Callers that such a record names.
pub const AUDIT_REFUSALS_CALLERS_MAX: usize = 20;
/// Secrets that such a record names.
pub const AUDIT_REFUSALS_SECRETS_MAX: usize = 20;
/// Such records in one change.
pub const AUDIT_REFUSALS_PER_CHANGE: usize = 50;

/// How long events are kept, for streams that come back and deliveries that are given up.
pub const EVENTS_KEPT: Duration = Duration::from_hours(4 * 24);
/// Most events that are kept over all projects, newest first. Above it, the project that has most loses its oldest:
/// what one tenant does cannot make another's alarms be forgotten.
pub const EVENTS_MAX: i64 = 200_000;
/// Most events that are kept for one project, newest first: a quarter of the disk that events take.
pub const EVENTS_PER_PROJECT_MAX: i64 = EVENTS_MAX / 4;
/// How often events past these bounds are deleted.
pub const EVENTS_SWEEP_INTERVAL: Duration = Duration::from_mins(1);
/// Events that one change deletes: few, so that nobody waits long for it.
pub const EVENTS_SWEPT_AT_ONCE: usize = 200;
/// Such changes in one sweep; the next sweep continues.
pub const EVENTS_SWEEP_CHANGES_MAX: usize = 1000;
/// Most webhooks of a project.
pub const WEBHOOKS_PER_PROJECT_MAX: i64 = 10;
/// How long an attempt at a delivery may take, from looking the name up to the last byte.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of the answer to a delivery is read, in bytes; what it says does not matter.
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
/// For how long a server has a webhook to itself. One that ends meanwhile loses it then.
pub const WEBHOOK_LEASE: Duration = Duration::from_secs(30);
const _: () = assert!(
    WEBHOOK_TURN.as_secs() + WEBHOOK_TIMEOUT.as_secs() + DATABASE_WAIT_MAX.as_secs() * 2
        < WEBHOOK_LEASE.as_secs(),
    "a turn ends before somebody else may take it, with clocks that are some seconds apart"
);
/// How often it is looked for deliveries that are due, beside those that this server has made itself.
pub const WEBHOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How far apart it is looked at the soonest for what this server has made itself.
pub const WEBHOOK_WAKES_APART: Duration = Duration::from_millis(50);
/// How long after the first failure a delivery is tried again. The waits grow.
pub const WEBHOOK_RETRY_FIRST: Duration = Duration::from_secs(5);
/// The longest that a delivery waits to be tried again, but for a fifth.
pub const WEBHOOK_RETRY_MAX: Duration = Duration::from_hours(6);
/// The longest that a webhook is left alone after failures.
pub const WEBHOOK_REST_MAX: Duration = Duration::from_mins(5);
/// How long a delivery is tried. It is given up then.
pub const WEBHOOK_TRIED_FOR: Duration = Duration::from_hours(3 * 24);
const _: () = assert!(WEBHOOK_TRIED_FOR.as_secs() < EVENTS_KEPT.as_secs(), "what is tried is kept");
/// How long the signing secret before the last still signs, where whoever rotates says nothing.
pub const WEBHOOK_OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
/// The longest that it may.
pub const WEBHOOK_OVERLAP_MAX: Duration = Duration::from_hours(30 * 24);
/// How often it is looked for deadlines that are near or have passed.
pub const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked for secrets that are, or are about to be, past their maximum age: at all clients.
pub const MAXIMUM_AGE_INTERVAL: Duration = Duration::from_mins(10);
/// How far back it is looked again: longer than a change takes until it can be seen, and than clocks are apart.
pub const EXPIRY_LOOK_BACK: Duration = Duration::from_mins(10);
/// Deadlines that are read at once; the others follow.
pub const EXPIRY_ROWS: i64 = 200;
/// How often it is told that one former secret was seen.
pub const FORMER_SEEN_INTERVAL: Duration = Duration::from_hours(1);
/// Former secrets of which a server remembers that it has told of them; past it, the database is asked.
pub const FORMER_SEEN_REMEMBERED_MAX: usize = 10_000;
/// Streams of events that one server keeps open. When all are taken, a project with fewer than others gets one of
/// the project that has most, so that no tenants keep the others from listening.
pub const STREAMS_MAX: usize = 200;
/// Streams of events of one project that one server keeps open.
pub const STREAMS_PER_PROJECT_MAX: usize = 20;
/// How often a server with open streams looks for events of other servers.
pub const STREAM_INTERVAL: Duration = Duration::from_secs(1);
/// How far apart it looks at the soonest.
pub const STREAM_WAKES_APART: Duration = Duration::from_millis(50);
/// How long a stream is silent before something is sent to see whether anybody listens, and before it is looked
/// whether its caller still may.
pub const STREAM_HEARTBEAT: Duration = Duration::from_secs(15);
/// After how long whoever listened comes back if the connection broke.
pub const STREAM_RETRY: Duration = Duration::from_secs(3);
/// Events that a stream reads at once.
pub const STREAM_EVENTS_AT_ONCE: i64 = 100;
/// Pieces of a stream that wait to be taken; until there is room, nothing more is read.
pub const STREAM_QUEUE_MAX: usize = 4;

/// Most links in the path of a file that a command writes; a circle of links ends here.
pub const PATH_LINKS_MAX: usize = 40;
/// Largest file that a command changes, in bytes: the whole of it is in memory.
pub const CHANGED_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long a command waits for the lock of a file that it changes. Another user may hold it for ever.
pub const FILE_LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a lock is tried again because its file was replaced meanwhile.
pub const FILE_LOCK_RETRIES_MAX: usize = 1000;
/// How long `keyrelay keys` waits for another one on the same file or database to end.
pub const KEYS_LOCK_WAIT_MAX: Duration = Duration::from_mins(1);
/// Longest answer that a command reads, in bytes: what answers may be no such server, and send without an end.
pub const COMMAND_ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a command of `--exec` may take where no other time is given: `keyrelay rotate` waits for it.
pub const EXEC_TIMEOUT_DEFAULT: Duration = Duration::from_mins(15);
/// How long such a command, asked to end, may take before it is killed.
pub const EXEC_GRACE: Duration = Duration::from_secs(5);
