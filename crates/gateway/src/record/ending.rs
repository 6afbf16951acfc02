//! The end of a record: what the call comes to, and its row on the way to Postgres.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Given, Recorder, TurnRow,
    row::{CallRow, Source, tokens},
};
use crate::{
    cache::{self, Entry},
    error::Refusal,
    prompt::{Change, Prompt, PromptRow},
    redaction::AgentRedaction,
    stored,
    traces::{Said, Told},
    usage::estimate,
    wire,
};

/// The status of a call whose client went away before the end (nginx' number for it).
pub const CLIENT_GONE: u16 = 499;

/// What a call comes to.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    /// Whether some of its tokens had to be estimated.
    pub(super) estimated: bool,
    /// US dollars; none where no price is known.
    pub(super) cost: Option<f64>,
}

impl Recorder {
    /// Ends the record. When this returns true, the record survives this process.
    #[must_use]
    pub fn end(mut self, status: u16, error: Option<&str>) -> bool {
        self.write(status, error)
    }

    /// Ends the record with a refusal, which the client gets.
    #[must_use]
    pub fn refused(mut self, refusal: Refusal) -> Refusal {
        if self.stores.is_some() {
            self.refusal = Some(wire::error_body(self.call.wire, &refusal.body(&self.call.name())));
        }
        self.write(refusal.status.as_u16(), Some(refusal.code.unwrap_or(refusal.kind)));
        refusal.after(self.retries)
    }

    /// Reckons what the call comes to, before it ends, so that the head of its answer can tell. Nothing is used after this.
    pub fn reckon(&mut self, status: u16) {
        self.sum(status);
    }

    fn sum(&mut self, status: u16) -> Sum {
        if let Some(sum) = self.sum {
            return sum;
        }
        let estimated = self.count(status);
        let cost = match &self.upstream {
            Some(upstream) => self.gateway.prices.load().cost(&upstream.provider.name, &upstream.model, &self.usage),
            None => Some(0.0),
        };
        *self.sum.insert(Sum { estimated, cost })
    }

    /// Counts the tokens of all rounds; true where some of them had to be estimated.
    fn count(&mut self, status: u16) -> bool {
        self.usage += self.heard.take().unwrap_or_default();
        // A provider that refused has done no work; one that broke off, or was left by the client, has.
        let worked = status < 400 || status == CLIENT_GONE || !self.answer.text.is_empty() || self.answer.beside > 0;
        let estimated = worked && self.told < self.rounds;
        if estimated {
            if self.usage.input == 0 {
                self.usage.input = estimate(self.request_bytes);
            }
            self.usage.output = self.usage.output.max(estimate(self.answer.text.len() + self.answer.beside));
        }
        estimated
    }

    fn write(&mut self, status: u16, error: Option<&str>) -> bool {
        self.open = false;
        let total = self.call.begun.elapsed();
        let Sum { estimated, cost } = self.sum(status);
        let holder = self.admission.holder();
        // What was reserved beyond is given back.
        self.admission.settle(cost.unwrap_or_default(), self.usage.input.saturating_add(self.usage.output));
        let overhead = total.saturating_sub(self.waited);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let turn = self.turn.take();
        let redaction = turn.as_ref().and_then(|turn| turn.agent.redaction.clone());
        let (agent, session) = (turn.as_ref().map(|turn| turn.agent.id), turn.as_ref().map(|turn| turn.session));
        // A turn without any answer leaves the log as it was: the client will send its message again.
        let told = status < 400 || (status == CLIENT_GONE && !self.answer.text.is_empty());
        let turn = turn
            .filter(|turn| told && !turn.messages.is_empty())
            .map(|turn| turn.finish(&self.answer, self.user.as_deref(), status == CLIENT_GONE));
        let prompt = self.prompt.take().filter(|_| told);
        if let Some((row, chain)) = &turn {
            self.gateway.memories.ended(row, *chain, prompt.as_ref().map(|(prompt, _)| prompt));
        }
        let prompt = prompt.and_then(|prompt| self.prompt_row(&prompt, turn.as_ref().map(|(turn, _)| turn), agent, session));
        let row = CallRow {
            tenant: self.key.tenant,
            call: self.call.id,
            at_us: self.call.at_us,
            key: self.key.id,
            team: self.key.team,
            agent,
            session,
            user: self.user.as_deref().map(Cow::from),
            model: Cow::from(&self.asked),
            provider: self.upstream.as_ref().map(|upstream| Cow::from(&upstream.provider.name)),
            upstream_model: self.upstream.as_ref().map(|upstream| Cow::from(&upstream.model)),
            wire: Cow::from(self.call.route.name()),
            stream: self.stream,
            status,
            error_type: error.map(Cow::from),
            input_tokens: tokens(self.usage.input),
            output_tokens: tokens(self.usage.output),
            cached_tokens: tokens(self.usage.cache_read),
            cache_write_tokens: tokens(self.usage.cache_write),
            reasoning_tokens: tokens(self.usage.reasoning),
            estimated,
            cost_usd: cost,
            source: self.source,
            rounds: self.rounds,
            retries: self.retries,
            first_byte_us: self.first_byte.map(micros),
            total_us: micros(total),
            overhead_us: micros(overhead),
            holder,
            turn: turn.map(|(row, _)| row),
            idempotency: self.reserves.take().and_then(|reserves| {
                let given = self.given.as_ref().filter(|_| (200..300).contains(&status));
                reserves.row(given, self.upstream_name(), session)
            }),
            bodies: self.bodies(status, redaction.as_deref()),
            prompt,
        };
        let metrics = &self.gateway.metrics;
        metrics.ended(
            self.call.route,
            status,
            total.as_secs_f64(),
            overhead.as_secs_f64(),
            self.first_byte.map(|time| time.as_secs_f64()),
        );
        metrics.tokens(&self.usage);
        if let Some((traces, place)) = self.trace.take() {
            let told = Told {
                call: self.call.id,
                at_us: self.call.at_us,
                total,
                overhead,
                first_byte: self.first_byte,
                operation: self.call.route.operation(),
                asked: &self.asked,
                upstream: row.provider.as_deref().zip(row.upstream_model.as_deref()),
                agent,
                session,
                key: self.key.id,
                status,
                error,
                stream: self.stream,
                usage: &self.usage,
                cost_usd: cost,
                retries: self.retries,
                stop: self.answer.stop.as_ref(),
                said: self.asked_with.as_deref().map(|body| Said { wire: self.call.wire, body, answer: &self.answer }),
            };
            if !traces.ended(place, &told) {
                metrics.span_dropped();
            }
        }
        let written = self.append(&row);
        if let Some((agent, user)) = row.turn.as_ref().and_then(|turn| Some((turn.agent, turn.user.as_deref()?))) {
            self.gateway.memories.wrote(agent, user, self.gateway.spool.end());
        }
        if written && status == 200 {
            self.put_into_cache();
        }
        written
    }

    /// What its session's prompts begin with; a worker's call, which has no turn, says that it was made as well.
    fn prompt_row(
        &self,
        (prompt, change): &(Arc<Prompt>, Change),
        turn: Option<&TurnRow>,
        agent: Option<Uuid>,
        session: Option<Uuid>,
    ) -> Option<Box<RawValue>> {
        let (session, fork) = turn.map_or((session?, None), |turn| (turn.session, Some(turn.fork)));
        let new = *change == Change::Whole && prompt.is_shared();
        let said = new && self.gateway.memories.says(agent?, self.user.as_deref(), prompt);
        let row = PromptRow::new(session, fork, prompt, *change, said, turn.is_none())?;
        serde_json::value::to_raw_value(&row).ok()
    }

    /// What is stored of its bodies. What was answered with another call's answer is stored with that.
    fn bodies(&self, status: u16, redaction: Option<&AgentRedaction>) -> Option<Box<RawValue>> {
        let (bodies, held) = self.stores.as_ref()?;
        if self.source != Source::Provider || !held.when.holds(status) {
            return None;
        }
        if self.gateway.spool.is_half_full() {
            self.gateway.metrics.bodies_skipped();
            return None;
        }
        let (told, given) = (self.refusal.as_deref(), self.given.as_ref().and_then(Given::beginning));
        let said = !self.answer.text.is_empty() || !self.answer.calls.is_empty();
        let stream = (self.stream && said).then(|| stored::assembled(&self.answer, told));
        let response = match &stream {
            Some(stream) => Some((&stream[..], stream.len())),
            None => told.map(|told| (told, told.len())).or(given),
        };
        let request = held.request.as_ref().map(|(bytes, length)| (&bytes[..], *length));
        bodies.row(request, response, redaction.map(AgentRedaction::redaction))
    }

    /// Keeps a whole answer for the same request. One that memory tools had a part in is not: they would not be carried out again.
    fn put_into_cache(&mut self) {
        let Some((cache, wanted)) = self.caches.take() else { return };
        let given = self.given.as_ref().filter(|_| self.rounds == 1 && !self.used_tools);
        let Some((given, bytes)) = given.and_then(|given| Some((given, given.bytes(cache::MAX_BYTES)?))) else { return };
        let entry = Entry {
            content_type: given.content_type.clone(),
            upstream: self.upstream_name().unwrap_or_default(),
            call: self.call.id,
            body: Bytes::copy_from_slice(bytes),
        };
        cache.put(wanted, entry);
    }

    fn upstream_name(&self) -> Option<String> {
        self.upstream.as_ref().map(|upstream| format!("{}/{}", upstream.provider.name, upstream.model))
    }

    /// Into the spool; when this returns true, the record survives this process.
    fn append(&self, row: &CallRow<TurnRow>) -> bool {
        // A plain call takes 400 to 700 bytes, one with a turn some thousands.
        let mut line = Vec::with_capacity(if row.turn.is_some() { 8 << 10 } else { 1 << 10 });
        let written = serde_json::to_writer(&mut line, row).map_err(std::io::Error::from).and_then(|()| {
            line.push(b'\n');
            self.gateway.spool.append(&line)
        });
        if let Err(error) = &written {
            tracing::error!(%error, call = %self.call.name(), "a call could not be recorded");
        }
        written.is_ok()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.open {
            self.write(CLIENT_GONE, Some("client_closed_request"));
        }
    }
}
