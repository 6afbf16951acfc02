//! The response cache's functions. Both ways give up early: a call never waits long for an answer that may not be there.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;
use tokio_postgres::{
    Client, Statement,
    types::{ToSql, Type},
};

use super::{DatabaseError, Readers, connect, lost};
use crate::cache::{Entry, Wanted};

/// How long a look may take.
const LOOK: Duration = Duration::from_millis(250);
/// How long an answer may take to be kept.
const KEEP: Duration = Duration::from_secs(2);

fn late() -> DatabaseError {
    DatabaseError::Away("no answer in time".to_owned())
}

impl Readers {
    /// The answer that is kept for a request, if one is.
    ///
    /// # Errors
    /// Where Postgres is away, refuses, or takes more than 250 ms.
    pub async fn cached(&self, wanted: &Wanted) -> Result<Option<Entry>, DatabaseError> {
        const GET: &str = "select call_id, content_type, upstream, body from trunkline.gateway_cache_get($1, $2)";
        let slot = &self.slots[self.next.fetch_add(1, Relaxed) % self.slots.len()];
        let read = async {
            let guard = self.opened(slot).await?;
            let reader = guard.as_ref().ok_or_else(lost)?;
            let key = wanted.key.as_slice();
            let rows = reader.client.query_typed(GET, &[(&wanted.tenant, Type::UUID), (&key, Type::BYTEA)]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            Ok(Some(Entry {
                call: row.try_get(0)?,
                content_type: row.try_get(1)?,
                upstream: row.try_get(2)?,
                body: Bytes::from(row.try_get::<_, Vec<u8>>(3)?),
            }))
        };
        timeout(LOOK, read).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The connection that answers are kept over.
pub struct CacheWriter {
    config: String,
    client: Option<(Client, Statement)>,
}

impl CacheWriter {
    /// Not connected yet.
    pub fn new(config: &str) -> Self {
        Self { config: config.to_owned(), client: None }
    }

    /// Keeps an answer, in place of an older one.
    ///
    /// # Errors
    /// Where Postgres is away, refuses, or takes more than two seconds.
    pub async fn put(&mut self, wanted: &Wanted, entry: &Entry) -> Result<(), DatabaseError> {
        let (client, statement) = if let Some(open) = self.client.take().filter(|(client, _)| !client.is_closed()) {
            open
        } else {
            let client = connect(&self.config).await?;
            let statement = client.prepare("select trunkline.gateway_cache_put($1, $2, $3, $4, $5, $6, $7)").await?;
            (client, statement)
        };
        let (key, body) = (wanted.key.as_slice(), &entry.body[..]);
        let ttl_ms = i64::try_from(wanted.ttl.as_millis()).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&wanted.tenant, &key, &entry.call, &entry.content_type, &entry.upstream, &body, &ttl_ms];
        let Ok(kept) = timeout(KEEP, client.execute(&statement, &parameters)).await else { return Err(late()) };
        kept?;
        self.client = Some((client, statement));
        Ok(())
    }
}
