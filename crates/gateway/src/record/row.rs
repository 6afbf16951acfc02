//! A recorded call as it stands in the spool, a line of JSON, and as it goes to Postgres: an element of an array of
//! `trunkline.call_row`, in Postgres' own binary form. Reading that costs Postgres a tenth of what JSON does.

use std::{
    borrow::Cow,
    error::Error,
    time::{Duration, UNIX_EPOCH},
};

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_postgres::types::{Field, IsNull, Kind, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use crate::conversation::{Chain, EMPTY};

/// An event of a session's log.
#[derive(Serialize)]
pub struct EventRow {
    /// Its id, made here.
    pub id: Uuid,
    /// Its type, such as `user.message`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it says.
    pub payload: Box<RawValue>,
}

/// A message, and the events that it is in the log.
#[derive(Serialize)]
pub struct MessageRow {
    /// The hash of the conversation up to it.
    #[serde(serialize_with = "hex")]
    pub chain: Chain,
    /// Whose it is.
    pub role: &'static str,
    /// What recall finds it by.
    pub text: String,
    /// In their order.
    pub events: Vec<EventRow>,
}

/// The session's side of a call with an agent.
#[derive(Serialize)]
pub struct TurnRow {
    /// The session that it goes on with.
    pub session: Uuid,
    /// The session that is made where the turn parts from the log.
    pub fork: Uuid,
    /// Whether it is known to.
    pub forks: bool,
    /// The id of the store of what was said, should it not be there yet.
    pub store: Uuid,
    /// For which agent.
    pub agent: Uuid,
    /// In which version.
    pub agent_version: i32,
    /// For which end user.
    pub user: Option<String>,
    /// Where the client's history ended that `messages` follow.
    #[serde(serialize_with = "hex_or_null")]
    pub prefix: Chain,
    /// Whether it is kept for recall.
    pub remember: bool,
    /// What is new, or all where the log's end is not known.
    pub messages: Vec<MessageRow>,
    /// Events that belong to no message.
    pub after: Vec<EventRow>,
}

/// A call. `Turn` is a `TurnRow` when written to the spool, and its text when read from there.
#[derive(Serialize, Deserialize)]
pub struct CallRow<'a, Turn> {
    /// Whose.
    pub tenant: Uuid,
    /// Its id.
    pub call: Uuid,
    /// When it came, in microseconds since 1970.
    pub at_us: u64,
    /// With which key.
    pub key: Uuid,
    /// Of which team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Uuid>,
    /// For which agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Uuid>,
    /// In which session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Uuid>,
    /// For which end user.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Cow<'a, str>>,
    /// The model asked for.
    #[serde(borrow)]
    pub model: Cow<'a, str>,
    /// Who answered; none where nobody did.
    #[serde(borrow)]
    pub provider: Option<Cow<'a, str>>,
    /// The model's name there.
    #[serde(borrow)]
    pub upstream_model: Option<Cow<'a, str>>,
    /// The client's wire.
    #[serde(borrow)]
    pub wire: Cow<'a, str>,
    /// Whether it asked for a stream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stream: bool,
    /// As the client saw it.
    pub status: u16,
    /// Why it failed.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<Cow<'a, str>>,
    /// Prompt tokens, cached ones included.
    pub input_tokens: i32,
    /// Answer tokens, reasoning included.
    pub output_tokens: i32,
    /// Prompt tokens read from the provider's cache.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cached_tokens: i32,
    /// Prompt tokens written into it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache_write_tokens: i32,
    /// Answer tokens that were reasoning.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reasoning_tokens: i32,
    /// Whether the tokens are our estimate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub estimated: bool,
    /// In US dollars; none where no price is known.
    pub cost_usd: Option<f64>,
    /// Who answered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: Source,
    /// Requests to providers, memory rounds included.
    pub rounds: u32,
    /// Attempts beyond these.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: u32,
    /// Until the answer began.
    pub first_byte_us: Option<u64>,
    /// Until it ended.
    pub total_us: u64,
    /// Of that, not spent waiting for the provider.
    pub overhead_us: u64,
    /// Whose leases it was made under, if it was under any limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Uuid>,
    /// The session's side.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// What is kept under the idempotency key that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Box<RawValue>>,
    /// What is stored of its bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bodies: Option<Box<RawValue>>,
    /// What its session's prompts begin with, where that has changed: a [`crate::prompt::PromptRow`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Box<RawValue>>,
}

fn none<T>() -> Option<T> {
    None
}

/// What most calls have need not be written for each.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Who answered a call. What is not a provider's answer costs nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A provider, or nobody.
    #[default]
    Provider,
    /// Nobody anew: the same request was answered before, and its answer was in the response cache.
    Cache,
    /// Nobody anew: what was kept under its idempotency key was given again.
    Replay,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Cache => "cache",
            Self::Replay => "replay",
        }
    }
}

/// A count as the store's `int` holds it: what a provider tells may be nonsense, and must not keep a call from being recorded.
pub fn tokens(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A hash as Postgres' `decode` reads it.
pub fn write_hex(chain: &Chain) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    chain.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).map(char::from).collect()
}

fn hex<S: Serializer>(chain: &Chain, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&write_hex(chain))
}

fn hex_or_null<S: Serializer>(chain: &Chain, serializer: S) -> Result<S::Ok, S::Error> {
    if *chain == EMPTY { serializer.serialize_none() } else { hex(chain, serializer) }
}

/// Calls on their way to Postgres, as the one parameter of `gateway_record`.
pub struct CallRows<'a>(Vec<CallRow<'a, &'a RawValue>>);

impl<'a> CallRows<'a> {
    /// Reads lines of the spool.
    ///
    /// # Errors
    /// Where one of them is not a call.
    pub fn read(lines: &'a [u8]) -> Result<Self, serde_json::Error> {
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(Self(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?))
    }
}

impl std::fmt::Debug for CallRows<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} calls", self.0.len())
    }
}

type Written = Result<IsNull, Box<dyn Error + Sync + Send>>;

impl ToSql for CallRows<'_> {
    /// The form of `array_recv` and `record_recv` in Postgres' sources.
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Written {
        let Kind::Array(element) = ty.kind() else { return Err("call_row is no array".into()) };
        let Kind::Composite(fields) = element.kind() else { return Err("call_row is no row type".into()) };
        out.put_i32(1); // dimensions
        out.put_i32(0); // no element is null
        out.put_u32(element.oid());
        out.put_i32(i32::try_from(self.0.len())?);
        out.put_i32(1); // the first one's index
        for row in &self.0 {
            sized(out, |out| {
                out.put_i32(i32::try_from(fields.len())?);
                fields.iter().try_for_each(|field| {
                    out.put_u32(field.type_().oid());
                    sized(out, |out| row.field(field, out))
                })?;
                Ok(IsNull::No)
            })?;
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Array(element) if matches!(element.kind(), Kind::Composite(_)))
    }

    to_sql_checked!();
}

/// Writes a value with its length before it.
fn sized(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> Written) -> Result<(), Box<dyn Error + Sync + Send>> {
    let at = out.len();
    out.put_i32(-1);
    if matches!(write(out)?, IsNull::No) {
        let length = i32::try_from(out.len() - at - 4)?;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

impl CallRow<'_, &RawValue> {
    /// Writes a field of the store's row type: by name, so that a store with fields that this gateway does not know gets nulls.
    fn field(&self, field: &Field, out: &mut BytesMut) -> Written {
        let ty = field.type_();
        match field.name() {
            "tenant" => self.tenant.to_sql(ty, out),
            "call" => self.call.to_sql(ty, out),
            "at" => (UNIX_EPOCH + Duration::from_micros(self.at_us)).to_sql(ty, out),
            "key" => self.key.to_sql(ty, out),
            "team" => self.team.to_sql(ty, out),
            "holder" => self.holder.to_sql(ty, out),
            "agent" => self.agent.to_sql(ty, out),
            "session" => self.session.to_sql(ty, out),
            "user_id" => text(self.user.as_deref(), out),
            "model" => text(Some(&self.model), out),
            "provider" => text(self.provider.as_deref(), out),
            "upstream_model" => text(self.upstream_model.as_deref(), out),
            "wire" => text(Some(&self.wire), out),
            "stream" => self.stream.to_sql(ty, out),
            "status" => i32::from(self.status).to_sql(ty, out),
            "error_type" => text(self.error_type.as_deref(), out),
            "input_tokens" => self.input_tokens.to_sql(ty, out),
            "output_tokens" => self.output_tokens.to_sql(ty, out),
            "cached_tokens" => self.cached_tokens.to_sql(ty, out),
            "cache_write_tokens" => self.cache_write_tokens.to_sql(ty, out),
            "reasoning_tokens" => self.reasoning_tokens.to_sql(ty, out),
            "estimated" => self.estimated.to_sql(ty, out),
            "cost_usd" => self.cost_usd.to_sql(ty, out),
            "source" => text(Some(self.source.name()), out),
            "rounds" => self.rounds.cast_signed().to_sql(ty, out),
            "retries" => self.retries.cast_signed().to_sql(ty, out),
            "first_byte_us" => self.first_byte_us.map(u64::cast_signed).to_sql(ty, out),
            "total_us" => self.total_us.cast_signed().to_sql(ty, out),
            "overhead_us" => self.overhead_us.cast_signed().to_sql(ty, out),
            "turn" => json(self.turn, out),
            "idempotency" => json(self.idempotency.as_deref(), out),
            "bodies" => json(self.bodies.as_deref(), out),
            "prompt" => json(self.prompt.as_deref(), out),
            _ => Ok(IsNull::Yes),
        }
    }
}

/// Postgres' text holds no NUL, and a client's name for a model or user must not keep its call from being recorded.
#[allow(clippy::unnecessary_wraps)] // as the others
fn text(value: Option<&str>, out: &mut BytesMut) -> Written {
    let Some(value) = value else { return Ok(IsNull::Yes) };
    if value.contains('\0') {
        out.put_slice(value.replace('\0', "\u{fffd}").as_bytes());
    } else {
        out.put_slice(value.as_bytes());
    }
    Ok(IsNull::No)
}

/// The form of `jsonb_recv`: a version, and the text.
#[allow(clippy::unnecessary_wraps)] // as the others
fn json(value: Option<&RawValue>, out: &mut BytesMut) -> Written {
    let Some(value) = value else { return Ok(IsNull::Yes) };
    out.put_u8(1);
    out.put_slice(value.get().as_bytes());
    Ok(IsNull::No)
}
