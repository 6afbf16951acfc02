//! A Converse request, all but its messages.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value, json};

use super::request_messages::{self, Conversation};
use crate::wire::request::{Output, Param, Request, Tool, ToolChoice};
use crate::wire::{WireError, json};

/// The least budget for thinking that Claude takes, in tokens.
const MIN_THINKING_BUDGET: u64 = 1024;

/// What this wire has no words for.
const UNSAYABLE: &[Param] =
    &[Param::Seed, Param::PresencePenalty, Param::FrequencyPenalty, Param::JsonOutput, Param::Verbosity, Param::Store];
/// The same for models that do not understand Anthropic's words beside those of this wire.
const UNSAYABLE_BUT_TO_CLAUDE: &[Param] = &[
    Param::Seed,
    Param::PresencePenalty,
    Param::FrequencyPenalty,
    Param::JsonOutput,
    Param::Verbosity,
    Param::Store,
    Param::SingleTool,
    Param::TopK,
];

/// What cannot be said to `model` in this wire.
pub(in crate::wire) fn unsayable(model: &str) -> &'static [Param] {
    if is_claude(model) { UNSAYABLE } else { UNSAYABLE_BUT_TO_CLAUDE }
}

/// Ids of models and of inference profiles name the maker: `eu.anthropic.claude-…`, `arn:…/us.anthropic.claude-…`.
fn is_claude(model: &str) -> bool {
    model.contains("anthropic.") || model.contains("claude")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestOut<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Box<RawValue>>,
    messages: Vec<super::reply::TurnOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_config: Option<InferenceConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_model_request_fields: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_metadata: Option<&'a Map<String, Value>>,
}

#[derive(Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct InferenceConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
}

pub(in crate::wire) fn write(mut request: Request) -> Result<Vec<u8>, WireError> {
    if request.temperature.as_ref().and_then(Number::as_f64).is_some_and(|temperature| temperature > 1.0) {
        let message = "`temperature` must be at most 1 with the provider of this model, which speaks another wire.";
        return Err(WireError::at("temperature", message));
    }
    let messages = std::mem::take(&mut request.messages);
    let Conversation { system, turns, uses_tools } = request_messages::write(&messages)?;
    let inference = InferenceConfig {
        max_tokens: request.max_tokens,
        temperature: request.temperature.as_ref(),
        top_p: request.top_p.as_ref(),
        stop_sequences: &request.stop,
    };
    let additional = additional_fields(&request);
    Ok(json::bytes(&RequestOut {
        system,
        messages: turns,
        inference_config: (inference != InferenceConfig::default()).then_some(inference),
        tool_config: tool_config(&request, uses_tools)?,
        output_config: output_config(&request),
        additional_model_request_fields: (!additional.is_empty()).then(|| additional.into()),
        service_tier: request.service_tier.as_ref().filter(|tier| *tier != "auto").map(|tier| json!({ "type": tier })),
        request_metadata: Some(&request.metadata).filter(|marks| !marks.is_empty()),
    }))
}

/// This wire has no word for "call no tool". Where no tool was called before, the tools can stay unsaid; else it insists on them.
fn tool_config(request: &Request, uses_tools: bool) -> Result<Option<Value>, WireError> {
    let mut config = json!({"tools": request.tools.iter().map(tool_out).collect::<Vec<_>>()});
    config["toolChoice"] = match &request.tool_choice {
        _ if request.tools.is_empty() => return Ok(None),
        None => return Ok(Some(config)),
        Some(ToolChoice::None) if uses_tools => return Err(WireError::untranslatable("tool_choice")),
        Some(ToolChoice::None) => return Ok(None),
        Some(ToolChoice::Auto) => json!({"auto": {}}),
        Some(ToolChoice::Required) => json!({"any": {}}),
        Some(ToolChoice::Named(name)) => json!({"tool": {"name": name}}),
    };
    Ok(Some(config))
}

fn tool_out(tool: &Tool) -> Value {
    let mut schema = tool.schema.clone();
    if let Value::Object(schema) = &mut schema {
        // Bedrock insists on what goes without saying.
        schema.entry("type").or_insert_with(|| json!("object"));
    }
    let mut spec = json!({"name": tool.name});
    if let Some(description) = tool.description.as_ref().filter(|description| !description.is_empty()) {
        spec["description"] = description.as_str().into();
    }
    spec["inputSchema"] = json!({ "json": schema });
    if tool.strict == Some(true) {
        spec["strict"] = true.into();
    }
    json!({ "toolSpec": spec })
}

fn output_config(request: &Request) -> Option<Value> {
    let mut config = Map::new();
    if let Some(Output::Schema { schema, name, .. }) = &request.output {
        let name = name.as_deref().unwrap_or("response");
        let structure = json!({"jsonSchema": {"name": name, "schema": schema.to_string()}});
        config.insert("textFormat".to_owned(), json!({"type": "json_schema", "structure": structure}));
    }
    match effort(request).as_deref() {
        None | Some("none") => {}
        Some("minimal") => _ = config.insert("effort".to_owned(), json!("low")),
        Some(effort) => _ = config.insert("effort".to_owned(), json!(effort)),
    }
    (!config.is_empty()).then(|| config.into())
}

/// The effort. Only Claude can be told a budget of tokens, so others are told the nearest effort.
fn effort(request: &Request) -> Option<String> {
    if is_claude(&request.model) { request.effort.clone() } else { request.nearest_effort() }
}

/// What is said to the model in its maker's words.
fn additional_fields(request: &Request) -> Map<String, Value> {
    let mut fields = Map::new();
    if !is_claude(&request.model) {
        return fields;
    }
    if let Some(top_k) = request.top_k {
        fields.insert("top_k".to_owned(), top_k.into());
    }
    match (request.effort.as_deref(), request.thinking_budget) {
        (Some("none"), _) | (None, Some(0)) => _ = fields.insert("thinking".to_owned(), json!({"type": "disabled"})),
        (None, Some(budget)) => {
            // It must leave room for the answer.
            let most = request.max_tokens.map_or(u64::MAX, |limit| limit.saturating_sub(1));
            let budget = budget.max(MIN_THINKING_BUDGET).min(most);
            if budget >= MIN_THINKING_BUDGET {
                fields.insert("thinking".to_owned(), json!({"type": "enabled", "budget_tokens": budget}));
            }
        }
        _ => {}
    }
    if request.parallel_tools == Some(false) && !request.tools.is_empty() {
        let mut choice = match &request.tool_choice {
            None | Some(ToolChoice::Auto) => json!({"type": "auto"}),
            Some(ToolChoice::Required) => json!({"type": "any"}),
            Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
            Some(ToolChoice::None) => return fields,
        };
        choice["disable_parallel_tool_use"] = true.into();
        fields.insert("tool_choice".to_owned(), choice);
    }
    fields
}
