//! What is asked of the store for one subject, and what it answers.

use std::sync::atomic::Ordering::SeqCst;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keeper::Spare;
use crate::{
    lease::{Grant, Pool, Wish},
    limits::Limits,
    subject::Subject,
    users::Entry,
};

/// One subject or user in a query, as `gateway_lease` reads it.
#[derive(Serialize, Default)]
pub(super) struct Item<'a> {
    tenant: Uuid,
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    look: bool,
    usd_new: bool,
    usd_granted: i64,
    usd_need: i64,
    usd_want: i64,
    slots_held: i64,
    slots_need: i64,
    slots_want: i64,
    minute: i64,
    requests_need: i64,
    requests_want: i64,
    tokens_need: i64,
    tokens_want: i64,
}

impl<'a> Item<'a> {
    /// Asks what limits a user has.
    pub(super) fn look(entry: &'a Entry) -> Self {
        let (key, user) = (Some(entry.key), Some(entry.user.as_str()));
        Self { tenant: entry.tenant, kind: "user", id: &entry.user, key, user, look: true, ..Self::default() }
    }
}

/// What it answers to the `n`th.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub n: usize,
    pub limits: Option<Limits>,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub subject: String,
    #[serde(default)]
    pub minute: i64,
    #[serde(default)]
    pub minute_ends_us: u64,
    pub usd: Option<Granted>,
    pub requests: Option<Granted>,
    pub tokens: Option<Granted>,
    pub slots: Option<Granted>,
}

/// What was lent of one limit.
#[derive(Deserialize, Clone, Copy)]
pub(super) struct Granted {
    #[serde(default)]
    fresh: bool,
    #[serde(rename = "granted")]
    amount: i64,
    left: i64,
    pub ends_us: Option<u64>,
}

impl Granted {
    /// As a pool takes it over.
    pub(super) fn grant(self, until: u64, resets: u64) -> Grant {
        Grant { fresh: self.fresh, granted: self.amount, left: self.left, until, resets }
    }
}

/// What is asked for one subject.
#[derive(Clone, Copy)]
pub(super) struct Wishes {
    pub money: Wish,
    pub requests: Wish,
    pub tokens: Wish,
    pub slots: Wish,
}

impl Wishes {
    /// What a subject lacks at `now`, or could give back.
    pub(super) fn of(subject: &Subject, now: u64, spare: Spare) -> Self {
        let wish = |pool: &Pool| pool.wish(now, spare == Spare::All);
        let slots = subject.slots.wish(now, spare != Spare::Nothing);
        Self { money: wish(&subject.money), requests: wish(&subject.requests), tokens: wish(&subject.tokens), slots }
    }

    /// As the store reads it.
    pub(super) fn item<'a>(&self, subject: &'a Subject) -> Item<'a> {
        let (tenant, kind, id) = &subject.name;
        Item {
            tenant: *tenant,
            kind,
            id,
            key: subject.user.as_ref().map(|(_, key)| *key),
            user: subject.user.as_ref().map(|(user, _)| user.as_str()),
            look: false,
            usd_new: self.money.new,
            usd_granted: self.money.granted,
            usd_need: self.money.need,
            usd_want: self.money.want,
            slots_held: self.slots.granted,
            slots_need: self.slots.need,
            slots_want: self.slots.want,
            minute: subject.minute.load(SeqCst),
            requests_need: self.requests.need,
            requests_want: self.requests.want,
            tokens_need: self.tokens.need,
            tokens_want: self.tokens.want,
        }
    }

    /// The store did not answer.
    pub(super) fn unanswered(&self, subject: &Subject) {
        subject.money.unanswered(self.money);
        subject.requests.unanswered(self.requests);
        subject.tokens.unanswered(self.tokens);
        subject.slots.unanswered(self.slots);
    }
}
