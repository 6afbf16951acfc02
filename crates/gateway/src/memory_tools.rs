//! Memory tools that the model calls: relayed to the control plane, where memory is interpreted, and answered here.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    auth,
    connections::Reach,
    remember::{Memory, shows_stores},
    request::Scan,
    snapshot::{Agent, Tools, function},
    upstream::Client,
    wire::{ToolCall, ToolResult, Wire, memory_tool},
};

/// How often a model may call memory tools before it must answer.
pub const MAX_ROUNDS: u32 = 8;
const LIMIT: Duration = Duration::from_secs(10);
const MAX_RESULT_BYTES: usize = 1 << 20;

/// Whether Anthropic's memory tool is carried out for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryTool {
    /// It is not: its agent has no memory tools, or nobody asks for it.
    None,
    /// The client declares it.
    Declared,
    /// Stores are attached to the session, and it is what reads and writes them.
    Offered,
}

impl MemoryTool {
    /// What a call of `agent` with `memory` has.
    pub fn of(wire: Wire, body: &[u8], scan: &Scan, agent: Option<&Agent>, memory: Option<&Memory>) -> Self {
        if agent.is_none_or(|agent| agent.tools.is_none()) {
            return Self::None;
        }
        if wire == Wire::AnthropicMessages && memory_tool::declared(body, scan.tools) {
            return Self::Declared;
        }
        let attached = memory.and_then(|memory| memory.blocks.as_deref()).is_some_and(shows_stores);
        // A function of that name is the client's own.
        let taken = || scan.tools.is_some_and(|tools| memmem::find(tools.span.of(body), b"\"memory\"").is_some());
        if attached && !taken() { Self::Offered } else { Self::None }
    }

    /// The tools that are added to a request in `wire`: the agent's, and this one where the client does not declare it.
    pub fn added(self, wire: Wire, tools: Option<&Tools>) -> Option<Cow<'_, str>> {
        let tools = tools.map(|tools| tools.text(wire));
        if self != Self::Offered {
            return tools.map(Cow::Borrowed);
        }
        let ours = function(wire, memory_tool::NAME, memory_tool::DESCRIPTION, &memory_tool::schema().to_string());
        Some(Cow::Owned(tools.map_or(ours.clone(), |tools| format!("{tools},{ours}"))))
    }
}

/// For whom tools are carried out.
pub struct Subject<'a> {
    /// Base URL of the control plane.
    pub control_url: &'a str,
    /// The client's headers: the tools are carried out with its own key.
    pub headers: &'a HeaderMap,
    /// The agent.
    pub agent: Uuid,
    /// The end user.
    pub user: Option<&'a str>,
    /// The session.
    pub session: Uuid,
    /// The session that it parts from with this call; mostly itself.
    pub parent: Uuid,
}

/// What the control plane is asked. The model's input goes on as it wrote it: nested however deep, numbers of any size.
#[derive(Serialize)]
struct Asked<'a> {
    name: &'a str,
    input: &'a RawValue,
    user_id: Option<&'a str>,
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_session_id: Option<String>,
    event_id: String,
}

#[derive(Deserialize)]
struct Outcome {
    content: String,
    is_error: bool,
}

/// Carries out one call. A failure is a result that the model can act on, never an error of the client's call.
pub async fn carry_out(client: &Client, subject: &Subject<'_>, event: Uuid, call: &ToolCall) -> ToolResult {
    let result = |content: String, is_error: bool| ToolResult { call_id: call.id.clone(), content, is_error };
    match timeout(LIMIT, ask(client, subject, event, call)).await {
        Ok(Ok(outcome)) => result(outcome.content, outcome.is_error),
        Ok(Err(reason)) => {
            tracing::warn!(reason, tool = call.name, "a memory tool could not be carried out");
            result("Memory is not available at the moment. Nothing was changed. Go on without it.".to_owned(), true)
        }
        Err(_) => result("Memory did not answer in time. It is not known whether anything was changed.".to_owned(), true),
    }
}

async fn ask(client: &Client, subject: &Subject<'_>, event: Uuid, call: &ToolCall) -> Result<Outcome, String> {
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    let Ok(input) = serde_json::from_str::<&RawValue>(arguments) else {
        return Ok(Outcome {
            content: "The tool's input is not valid JSON. Nothing was changed. Call it again.".to_owned(),
            is_error: true,
        });
    };
    let asked = Asked {
        name: &call.name,
        input,
        user_id: subject.user,
        session_id: format!("sesn_{}", subject.session.simple()),
        parent_session_id: (subject.parent != subject.session).then(|| format!("sesn_{}", subject.parent.simple())),
        event_id: format!("sevt_{}", event.simple()),
    };
    let body = serde_json::to_vec(&asked).map_err(|error| error.to_string())?;
    let uri = format!("{}/v1/agents/agent_{}/memory_tools", subject.control_url, subject.agent.simple());
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.parse().map_err(|_| format!("'{uri}' is not a URL"))?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = auth::credential(subject.headers) {
        let mut value = HeaderValue::try_from(key).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        request.headers_mut().insert("x-api-key", value);
    }
    let response = client.request(Reach::Configured, request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), MAX_RESULT_BYTES).collect().await.map_err(|error| error.to_string())?.to_bytes();
    if status != StatusCode::OK {
        return Err(format!("the control plane answered {status}"));
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}
