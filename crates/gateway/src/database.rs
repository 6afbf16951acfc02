//! Postgres, as the gateway's role may use it: its functions and three channels. Connections are opened when first wanted
//! and again when lost; none is held across a model call.

mod cache;

use std::{
    future::poll_fn,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, NoTls, Notification, Statement,
    types::{ToSql, Type},
};
use uuid::Uuid;

pub use self::cache::CacheWriter;
use crate::record::CallRows;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the memory of a call may be waited for before the call goes on without.
const CONTEXT: Duration = Duration::from_secs(2);
const CONTEXT_OF_CALL: &str = "select session_id, at_head, refused, head, blocks, recall, prefix, deltas, prompt_version, idle \
    from trunkline.gateway_context($1, $2, $3, $4, $5, $6, $7, $8, $9)";
/// How long a lease may be waited for.
const LEASE: Duration = Duration::from_secs(2);

/// Why a query gave no answer.
#[derive(Debug)]
pub enum DatabaseError {
    /// The server could not be reached, the connection broke, or it asked for another try.
    Away(String),
    /// The server refused the statement: sending it again would not help.
    Refused(String),
}

impl std::fmt::Display for DatabaseError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away(text) => write!(formatter, "Postgres cannot answer now: {text}"),
            Self::Refused(text) => write!(formatter, "Postgres refused: {text}"),
        }
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Classes of Postgres' error codes: connection, deadlock, a function that is not there (a schema of another
            // version, as while gateways are brought up to date one by one), resources, operator (a restart among them).
            Some(refusal) if !["08", "40", "42", "53", "57"].iter().any(|class| refusal.code().code().starts_with(class)) => {
                Self::Refused(refusal.to_string())
            }
            Some(refusal) => Self::Away(refusal.to_string()),
            None => Self::Away(error.to_string()),
        }
    }
}

async fn connect(config: &str) -> Result<Client, DatabaseError> {
    let connecting = async {
        let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    match timeout(CONNECT, connecting).await {
        Ok(client) => Ok(client?),
        Err(_) => Err(DatabaseError::Away("no connection within 3 s".to_owned())),
    }
}

/// What one call is to be given.
#[derive(Debug, Default)]
pub struct Context {
    /// The session that the call goes on with, if it is known.
    pub session: Option<Uuid>,
    /// Whether that session's log ends where the client's history does.
    pub at_head: bool,
    /// The session named is another agent's or user's.
    pub refused: bool,
    /// Where the session's log ends, if that is not where the client's history does.
    pub head: Option<Vec<u8>>,
    /// The rendered blocks.
    pub blocks: Option<String>,
    /// Passages that match the newest user message.
    pub recall: Option<String>,
    /// What the session's prompts begin with.
    pub prompt: Option<StoredPrompt>,
}

/// What a session's prompts begin with, as it is kept.
#[derive(Debug)]
pub struct StoredPrompt {
    /// The blocks.
    pub prefix: String,
    /// A JSON array of `[hex of a message's chain, text]`.
    pub deltas: String,
    /// The agent's version that they are of.
    pub version: i32,
    /// How long ago the session was called last, in seconds.
    pub idle: f64,
}

/// What the context is asked for.
pub struct ContextQuery<'a> {
    /// Whose.
    pub tenant: Uuid,
    /// For which agent.
    pub agent: Uuid,
    /// In which version.
    pub version: i32,
    /// For which end user.
    pub user: Option<&'a str>,
    /// The session that the client named, or that is known here.
    pub session: Option<Uuid>,
    /// The hash of the history that the client sent; none if it sent none.
    pub chain: Option<&'a [u8]>,
    /// The newest user message.
    pub text: Option<&'a str>,
    /// How many tokens of passages are wanted; 0: none.
    pub recall_tokens: i32,
    /// Whether what the session's prompts begin with is wanted.
    pub prompt: bool,
}

/// What is recalled by.
pub struct RecallQuery<'a> {
    /// Whose.
    pub tenant: Uuid,
    /// For which agent.
    pub agent: Uuid,
    /// In which version.
    pub version: i32,
    /// Of which end user.
    pub user: &'a str,
    /// The newest user message.
    pub text: &'a str,
    /// How many tokens of passages are wanted.
    pub tokens: i32,
    /// The session that is left out: it is in the prompt.
    pub session: Option<Uuid>,
    /// The message's vector; none: by its words alone.
    pub vector: Option<&'a [f32]>,
    /// The model that made it.
    pub model: &'a str,
}

/// What was recalled.
pub struct Recall {
    /// Passages, each a line.
    pub text: Option<String>,
    /// Whether the vector was of use.
    pub hybrid: bool,
    /// The model whose vectors are searched, if there are any.
    pub model: Option<String>,
}

/// A call that is to have an idempotency key to itself.
pub struct Reservation<'a> {
    /// Whose.
    pub tenant: Uuid,
    /// With which API key.
    pub key_id: Uuid,
    /// SHA-256 of the client's key.
    pub key: &'a [u8],
    /// SHA-256 of what it asks for.
    pub request: &'a [u8],
    /// The call.
    pub call: Uuid,
    /// The spool that its record will stand in.
    pub holder: Uuid,
    /// How long it may take.
    pub limit_ms: i64,
}

/// What became of the wish.
pub enum Reserved {
    /// The call has it.
    Begun,
    /// An earlier call had it, and this is its answer as JSON.
    Answered {
        /// That call.
        call: Uuid,
        /// `{status, content_type, upstream, session, body, binary}`.
        answer: String,
    },
    /// An earlier call asked for something else.
    Other,
    /// An earlier call has it, and has not ended.
    UnderWay,
}

struct Reader {
    client: Client,
    context: Statement,
    history: Statement,
}

fn lost() -> DatabaseError {
    DatabaseError::Away("the connection was lost".to_owned())
}

/// Connections for reading memory, used in turn; queries on one of them are pipelined.
pub struct Readers {
    config: String,
    slots: Vec<tokio::sync::RwLock<Option<Reader>>>,
    next: AtomicUsize,
    /// When the last attempt to connect failed: for a moment nobody else need try.
    failed_at: Mutex<Option<std::time::Instant>>,
}

impl Readers {
    /// `count` connections, none of them open yet.
    pub fn new(config: &str, count: usize) -> Self {
        let slots = (0..count).map(|_| tokio::sync::RwLock::new(None)).collect();
        Self { config: config.to_owned(), slots, next: AtomicUsize::new(0), failed_at: Mutex::new(None) }
    }

    /// Reads the context of one call.
    ///
    /// # Errors
    /// Where Postgres is away, refuses, or takes more than two seconds.
    pub async fn context(&self, query: &ContextQuery<'_>) -> Result<Context, DatabaseError> {
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % self.slots.len()];
        match timeout(CONTEXT, self.read(slot, query)).await {
            Ok(result) => result,
            Err(_) => Err(DatabaseError::Away("no answer within 2 s".to_owned())),
        }
    }

    /// Recalls passages.
    ///
    /// # Errors
    /// As for `context`.
    pub async fn recall(&self, query: &RecallQuery<'_>) -> Result<Recall, DatabaseError> {
        const RECALL: &str = "select recall, hybrid, model from trunkline.gateway_recall($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % self.slots.len()];
        let read = async {
            let guard = self.opened(slot).await?;
            let reader = guard.as_ref().ok_or_else(lost)?;
            let parameters: [(&(dyn ToSql + Sync), Type); 9] = [
                (&query.tenant, Type::UUID),
                (&query.agent, Type::UUID),
                (&query.user, Type::TEXT),
                (&query.text, Type::TEXT),
                (&query.tokens, Type::INT4),
                (&query.session, Type::UUID),
                (&query.vector, Type::FLOAT4_ARRAY),
                (&query.model, Type::TEXT),
                (&query.version, Type::INT4),
            ];
            let rows = reader.client.query_typed(RECALL, &parameters).await?;
            let row = rows.first().ok_or_else(lost)?;
            Ok(Recall { text: row.try_get(0)?, hybrid: row.try_get(1)?, model: row.try_get(2)? })
        };
        match timeout(CONTEXT, read).await {
            Ok(result) => result,
            Err(_) => Err(DatabaseError::Away("no answer within 2 s".to_owned())),
        }
    }

    /// Reserves an idempotency key for a call.
    ///
    /// # Errors
    /// Where Postgres is away, refuses, or takes more than two seconds.
    pub async fn reserve(&self, wanted: &Reservation<'_>) -> Result<Reserved, DatabaseError> {
        const BEGIN: &str = "select state, call_id, answer from trunkline.gateway_idempotency_begin($1, $2, $3, $4, $5, $6, $7)";
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % self.slots.len()];
        let reserved = async {
            let guard = self.opened(slot).await?;
            let reader = guard.as_ref().ok_or_else(lost)?;
            let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
                (&wanted.tenant, Type::UUID),
                (&wanted.key_id, Type::UUID),
                (&wanted.key, Type::BYTEA),
                (&wanted.request, Type::BYTEA),
                (&wanted.call, Type::UUID),
                (&wanted.holder, Type::UUID),
                (&wanted.limit_ms, Type::INT8),
            ];
            let rows = reader.client.query_typed(BEGIN, &parameters).await?;
            let row = rows.first().ok_or_else(lost)?;
            Ok(match row.try_get(0)? {
                "begun" => Reserved::Begun,
                "answered" => Reserved::Answered { call: row.try_get(1)?, answer: row.try_get(2)? },
                "other" => Reserved::Other,
                _ => Reserved::UnderWay,
            })
        };
        match timeout(CONTEXT, reserved).await {
            Ok(result) => result,
            Err(_) => Err(DatabaseError::Away("no answer within 2 s".to_owned())),
        }
    }

    /// An agent in one of its versions, as JSON; none: there is no such version.
    ///
    /// # Errors
    /// As for `context`.
    pub async fn agent(&self, tenant: Uuid, agent: Uuid, version: i32) -> Result<Option<String>, DatabaseError> {
        const AGENT: &str = "select trunkline.gateway_agent($1, $2, $3)::text";
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % self.slots.len()];
        let read = async {
            let guard = self.opened(slot).await?;
            let reader = guard.as_ref().ok_or_else(lost)?;
            let parameters: [(&(dyn ToSql + Sync), Type); 3] =
                [(&tenant, Type::UUID), (&agent, Type::UUID), (&version, Type::INT4)];
            let rows = reader.client.query_typed(AGENT, &parameters).await?;
            Ok(rows.first().ok_or_else(lost)?.try_get(0)?)
        };
        match timeout(CONTEXT, read).await {
            Ok(result) => result,
            Err(_) => Err(DatabaseError::Away("no answer within 2 s".to_owned())),
        }
    }

    /// The session of a call or of this id, if it is this agent's and user's, and its events up to and with that call's, as
    /// JSON.
    ///
    /// # Errors
    /// As for `context`.
    pub async fn history(
        &self,
        tenant: Uuid,
        agent: Uuid,
        user: Option<&str>,
        call: Option<Uuid>,
        session: Option<Uuid>,
    ) -> Result<Option<(Uuid, String)>, DatabaseError> {
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % self.slots.len()];
        let read = async {
            let guard = self.opened(slot).await?;
            let reader = guard.as_ref().ok_or_else(lost)?;
            let row = reader.client.query_opt(&reader.history, &[&tenant, &agent, &user, &call, &session]).await?;
            row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
        };
        match timeout(CONTEXT, read).await {
            Ok(result) => result,
            Err(_) => Err(DatabaseError::Away("no answer within 2 s".to_owned())),
        }
    }

    /// The slot with its connection open; another one where it cannot be opened, as when all that Postgres allows are taken.
    async fn opened<'a>(
        &'a self,
        slot: &'a tokio::sync::RwLock<Option<Reader>>,
    ) -> Result<tokio::sync::RwLockReadGuard<'a, Option<Reader>>, DatabaseError> {
        let is_open = |reader: &Option<Reader>| reader.as_ref().is_some_and(|reader| !reader.client.is_closed());
        let guard = slot.read().await;
        if is_open(&guard) {
            return Ok(guard);
        }
        drop(guard);
        match self.open(slot).await {
            Ok(()) => Ok(slot.read().await),
            Err(error) => {
                let mut others = self.slots.iter().filter_map(|slot| slot.try_read().ok());
                others.find(|guard| is_open(guard)).ok_or(error)
            }
        }
    }

    async fn read(&self, slot: &tokio::sync::RwLock<Option<Reader>>, query: &ContextQuery<'_>) -> Result<Context, DatabaseError> {
        let guard = self.opened(slot).await?;
        let reader = guard.as_ref().ok_or_else(lost)?;
        let row = reader
            .client
            .query_one(
                &reader.context,
                &[
                    &query.tenant,
                    &query.agent,
                    &query.version,
                    &query.user,
                    &query.session,
                    &query.chain,
                    &query.text,
                    &query.recall_tokens,
                    &query.prompt,
                ],
            )
            .await?;
        Ok(Context {
            session: row.try_get(0)?,
            at_head: row.try_get(1)?,
            refused: row.try_get(2)?,
            head: row.try_get(3)?,
            blocks: row.try_get(4)?,
            recall: row.try_get(5)?,
            prompt: match row.try_get(6)? {
                Some(prefix) => {
                    Some(StoredPrompt { prefix, deltas: row.try_get(7)?, version: row.try_get(8)?, idle: row.try_get(9)? })
                }
                None => None,
            },
        })
    }

    async fn open(&self, slot: &tokio::sync::RwLock<Option<Reader>>) -> Result<(), DatabaseError> {
        let mut guard = slot.write().await;
        if guard.as_ref().is_some_and(|reader| !reader.client.is_closed()) {
            return Ok(());
        }
        let recently = |at: &std::time::Instant| at.elapsed() < Duration::from_millis(200);
        if self.failed_at.lock().is_ok_and(|at| at.as_ref().is_some_and(recently)) {
            return Err(DatabaseError::Away("the last attempt failed a moment ago".to_owned()));
        }
        let opened = async {
            let client = connect(&self.config).await?;
            let context = client.prepare(CONTEXT_OF_CALL).await?;
            let history = client.prepare("select session_id, events from trunkline.gateway_history($1, $2, $3, $4, $5)").await?;
            Ok::<_, DatabaseError>(Reader { client, context, history })
        };
        let opened = opened.await;
        if let Ok(mut at) = self.failed_at.lock() {
            *at = opened.is_err().then(std::time::Instant::now);
        }
        *guard = Some(opened?);
        Ok(())
    }
}

/// The connection that writes what was recorded.
pub struct Writer {
    config: String,
    client: Option<(Client, Statement)>,
}

impl Writer {
    /// Not connected yet.
    pub fn new(config: &str) -> Self {
        Self { config: config.to_owned(), client: None }
    }

    /// Writes the calls of the spool's `lines` in one transaction; a call that is already there is left as it is.
    ///
    /// # Errors
    /// Where Postgres is away or refuses, or a line is no call; then none of the calls is written.
    pub async fn record(&mut self, lines: &[u8]) -> Result<(), DatabaseError> {
        let calls = CallRows::read(lines).map_err(|error| DatabaseError::Refused(format!("not a call: {error}")))?;
        let (client, statement) = self.opened().await?;
        let result = client.execute(statement, &[&calls]).await;
        if result.is_err() {
            // What it knows of the store's types may be out of date.
            self.client = None;
        }
        result?;
        Ok(())
    }

    /// Frees the idempotency keys of calls that a gateway was at when it died, once its spool has been replayed.
    ///
    /// # Errors
    /// Where Postgres is away or refuses.
    pub async fn release(&mut self, holder: Uuid) -> Result<(), DatabaseError> {
        let (client, _) = self.opened().await?;
        client.execute("select trunkline.gateway_idempotency_release($1)", &[&holder]).await?;
        Ok(())
    }

    async fn opened(&mut self) -> Result<&(Client, Statement), DatabaseError> {
        if self.client.as_ref().is_none_or(|(client, _)| client.is_closed()) {
            let client = connect(&self.config).await?;
            let statement = client.prepare("select trunkline.gateway_record($1)").await?;
            self.client = Some((client, statement));
        }
        self.client.as_ref().ok_or_else(lost)
    }
}

/// The connection on which leases are asked for.
pub struct Lender {
    config: String,
    client: Option<(Client, Statement)>,
}

impl Lender {
    /// Not connected yet.
    pub fn new(config: &str) -> Self {
        Self { config: config.to_owned(), client: None }
    }

    /// Asks for the leases of a JSON array of subjects; the answer is one too. They hold for `term` milliseconds.
    ///
    /// # Errors
    /// Where Postgres is away, refuses, or takes more than two seconds; it may have carried it out all the same.
    pub async fn lease(&mut self, holder: Uuid, term: i32, items: &str) -> Result<String, DatabaseError> {
        let (client, statement) = if let Some(open) = self.client.take().filter(|(client, _)| !client.is_closed()) {
            open
        } else {
            let client = connect(&self.config).await?;
            let statement = client.prepare("select trunkline.gateway_lease($1, $2, $3::text::jsonb)::text").await?;
            (client, statement)
        };
        let Ok(answered) = timeout(LEASE, client.query_one(&statement, &[&holder, &term, &items])).await else {
            return Err(DatabaseError::Away("no answer within 2 s".to_owned()));
        };
        let text = answered.and_then(|row| row.try_get(0));
        self.client = Some((client, statement));
        Ok(text?)
    }

    /// Gives back all that a gateway holds.
    ///
    /// # Errors
    /// Where Postgres is away or refuses.
    pub async fn release(&mut self, holder: Uuid) -> Result<(), DatabaseError> {
        let client = connect(&self.config).await?;
        client.execute("select trunkline.gateway_release($1)", &[&holder]).await?;
        Ok(())
    }
}

/// The connection that watches for changes.
pub struct Watcher {
    client: Client,
    notifications: mpsc::UnboundedReceiver<Notification>,
}

/// A change that the watcher was told of.
pub enum Change {
    /// Keys or agents.
    Configuration,
    /// A block: its tenant, scope, agent and subject.
    Memory(String),
    /// The limits of an end user.
    Limits,
    /// Nothing heard for the period asked for.
    Quiet,
    /// The connection is gone.
    Lost,
}

impl Watcher {
    /// Connects and listens.
    ///
    /// # Errors
    /// Where Postgres is away or refuses.
    pub async fn connect(config: &str) -> Result<Self, DatabaseError> {
        let connecting = tokio_postgres::connect(config, NoTls);
        let (client, mut connection) =
            timeout(CONNECT, connecting).await.map_err(|_| DatabaseError::Away("no connection within 3 s".to_owned()))??;
        let (sender, notifications) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message
                    && sender.send(notification).is_err()
                {
                    break;
                }
            }
        });
        client.batch_execute("listen trunkline_configuration; listen trunkline_limits; listen trunkline_memory").await?;
        Ok(Self { client, notifications })
    }

    /// The next change, or `Quiet` after `period`.
    pub async fn change(&mut self, period: Duration) -> Change {
        match timeout(period, self.notifications.recv()).await {
            Err(_) => Change::Quiet,
            Ok(None) => Change::Lost,
            Ok(Some(told)) if told.channel() == "trunkline_configuration" => Change::Configuration,
            Ok(Some(told)) if told.channel() == "trunkline_limits" => Change::Limits,
            Ok(Some(told)) => Change::Memory(told.payload().to_owned()),
        }
    }

    /// The store's count of configuration changes.
    ///
    /// # Errors
    /// Where Postgres is away or refuses.
    pub async fn revision(&self) -> Result<i64, DatabaseError> {
        Ok(self.client.query_one("select trunkline.gateway_revision()", &[]).await?.try_get(0)?)
    }

    /// Keys and agents, as JSON text.
    ///
    /// # Errors
    /// Where Postgres is away or refuses.
    pub async fn snapshot(&self) -> Result<String, DatabaseError> {
        Ok(self.client.query_one("select trunkline.gateway_snapshot()::text", &[]).await?.try_get(0)?)
    }

    /// Prices, as JSON text.
    ///
    /// # Errors
    /// Where Postgres is away or refuses.
    pub async fn prices(&self) -> Result<String, DatabaseError> {
        Ok(self.client.query_one("select trunkline.gateway_prices()::text", &[]).await?.try_get(0)?)
    }
}
