//! A messages request, all but its messages.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value, json};

use super::request_messages::{self, Conversation};
use super::{CACHE_CONTROL, memory_tool};
use crate::wire::fields::Fields;
use crate::wire::request::{Output, Param, Request, Tool, ToolChoice};
use crate::wire::{WireError, json};

/// Anthropic wants a limit; where the client set none, this many tokens: what every model can write.
const DEFAULT_MAX_TOKENS: u64 = 4096;
/// The least that Anthropic lets a model think for.
const MIN_THINKING_BUDGET: u64 = 1024;

pub(in crate::wire) const UNSAYABLE: &[Param] = &[
    Param::Seed,
    Param::PresencePenalty,
    Param::FrequencyPenalty,
    Param::JsonOutput,
    Param::Verbosity,
    Param::ServiceTier,
    Param::Metadata,
    Param::Store,
];

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Request, WireError> {
    let mut fields = Fields::parse(body)?;
    fields.ignore(&[CACHE_CONTROL]);
    fields.only("speed", &[json!("standard")])?;
    let (tool_choice, parallel_tools) = tool_choice(&mut fields)?;
    let (thinking_budget, show_thinking) = thinking(&mut fields)?;
    let (effort, output) = output_config(&mut fields)?;
    let request = Request {
        model: fields.string("model")?.unwrap_or_default(),
        messages: request_messages::parse(&mut fields)?,
        tools: tools(&mut fields)?,
        tool_choice,
        parallel_tools,
        max_tokens: Some(
            fields.integer("max_tokens")?.ok_or_else(|| fields.wrong("max_tokens", "a whole number; it is missing"))?,
        ),
        stop: stop_sequences(&mut fields)?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        stream: fields.boolean("stream")?.unwrap_or_default(),
        user: user(&mut fields)?,
        top_k: fields.integer("top_k")?,
        effort,
        thinking_budget,
        show_thinking,
        output,
        service_tier: service_tier(&mut fields)?,
        ..Request::default()
    };
    fields.finish()?;
    Ok(request)
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, WireError> {
    let mut tools = Vec::new();
    for mut tool in fields.objects("tools")? {
        let kind = tool.string("type")?;
        // How the arguments are streamed; and who may call, where it is only the model.
        tool.ignore(&[CACHE_CONTROL, "eager_input_streaming"]);
        tool.only("allowed_callers", &[json!(["direct"])])?;
        match kind.as_deref() {
            None | Some("custom") => {}
            Some(memory_tool::TYPE) => {
                tool.ignore(&["name", "input_examples"]);
                tools.push(memory_tool::function(tool.boolean("strict")?));
                tool.finish()?;
                continue;
            }
            // Tools that Anthropic runs or that its models were trained on.
            Some(_) => return Err(tool.untranslatable_by("type")),
        }
        tools.push(Tool {
            name: tool.required_string("name")?,
            description: tool.string("description")?,
            schema: tool.take("input_schema").ok_or_else(|| tool.wrong("input_schema", "a JSON Schema; it is missing"))?,
            strict: tool.boolean("strict")?,
        });
        tool.finish()?;
    }
    Ok(tools)
}

fn tool_choice(fields: &mut Fields) -> Result<(Option<ToolChoice>, Option<bool>), WireError> {
    let Some(mut choice) = fields.object("tool_choice")? else {
        return Ok((None, None));
    };
    let kind = match choice.required_string("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.required_string("name")?),
        _ => return Err(choice.wrong("type", "`auto`, `any`, `tool` or `none`")),
    };
    let parallel = choice.boolean("disable_parallel_tool_use")?.map(|disabled| !disabled);
    choice.finish()?;
    Ok((Some(kind), parallel))
}

/// `standard_only` keeps the call out of capacity that was bought beforehand, which is what `default` means elsewhere.
fn service_tier(fields: &mut Fields) -> Result<Option<String>, WireError> {
    match fields.string("service_tier")?.as_deref() {
        None | Some("auto") => Ok(None),
        Some("standard_only") => Ok(Some("default".to_owned())),
        Some(_) => Err(fields.untranslatable("service_tier")),
    }
}

/// The tokens the model may think for, where the client sets them, and whether it wants to see what is thought. Disabled and
/// adaptive thinking are what other providers do anyway when nothing is said.
fn thinking(fields: &mut Fields) -> Result<(Option<u64>, Option<bool>), WireError> {
    let Some(mut thinking) = fields.object("thinking")? else {
        return Ok((None, None));
    };
    let show = thinking.string("display")?.map(|display| display != "omitted");
    let budget = match thinking.required_string("type")?.as_str() {
        "disabled" | "adaptive" => None,
        "enabled" => thinking.integer("budget_tokens")?,
        _ => return Err(thinking.untranslatable("type")),
    };
    thinking.finish()?;
    Ok((budget, show))
}

fn output_config(fields: &mut Fields) -> Result<(Option<String>, Option<Output>), WireError> {
    let Some(mut config) = fields.object("output_config")? else {
        return Ok((None, None));
    };
    let effort = config.string("effort")?;
    let schema = match config.object("format")? {
        None => None,
        Some(mut format) => {
            format.only("type", &[json!("json_schema")])?;
            let schema = format.take("schema").ok_or_else(|| format.wrong("schema", "a JSON Schema; it is missing"))?;
            Some(Output::Schema { schema, name: None, strict: None })
        }
    };
    config.finish()?;
    Ok((effort, schema))
}

fn stop_sequences(fields: &mut Fields) -> Result<Vec<String>, WireError> {
    let stops = fields.array("stop_sequences")?.unwrap_or_default().into_iter();
    let stops = stops.map(|stop| match stop {
        Value::String(stop) => Ok(stop),
        _ => Err(fields.wrong("stop_sequences", "an array of strings")),
    });
    stops.collect()
}

fn user(fields: &mut Fields) -> Result<Option<String>, WireError> {
    let Some(mut metadata) = fields.object("metadata")? else {
        return Ok(None);
    };
    let user = metadata.string("user_id")?;
    metadata.finish()?;
    Ok(user)
}

#[derive(Serialize)]
struct RequestOut<'a> {
    model: &'a str,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Box<RawValue>>,
    messages: Vec<super::reply::TurnOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
}

pub(in crate::wire) fn write(request: Request) -> Result<Vec<u8>, WireError> {
    if request.temperature.as_ref().and_then(Number::as_f64).is_some_and(|temperature| temperature > 1.0) {
        let message = "`temperature` must be at most 1 with the provider of this model, which speaks another wire.";
        return Err(WireError::at("temperature", message));
    }
    let tool_choice = tool_choice_out(&request);
    let Conversation { system, turns } = request_messages::write(request.messages)?;
    let mut output_config = serde_json::Map::new();
    let max_tokens = request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    let mut thinking = None;
    match request.effort.as_deref() {
        None => thinking = request.thinking_budget.and_then(|budget| thinking_out(budget, max_tokens)),
        Some("none") => thinking = Some(json!({"type": "disabled"})),
        Some("minimal") => _ = output_config.insert("effort".to_owned(), json!("low")),
        Some(effort) => _ = output_config.insert("effort".to_owned(), json!(effort)),
    }
    if let Some(Output::Schema { schema, .. }) = request.output {
        output_config.insert("format".to_owned(), json!({"type": "json_schema", "schema": schema}));
    }
    Ok(json::bytes(&RequestOut {
        model: &request.model,
        max_tokens,
        system,
        messages: turns,
        tools: request.tools.into_iter().map(tool_out).collect(),
        tool_choice,
        stop_sequences: &request.stop,
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        thinking,
        output_config: (!output_config.is_empty()).then(|| output_config.into()),
        metadata: request.user.map(|user| json!({"user_id": user})),
        service_tier: request.service_tier.filter(|tier| tier == "default").map(|_| "standard_only"),
        stream: request.stream.then_some(true),
    }))
}

/// Thinking for a budget of tokens, which Anthropic wants to be less than the limit of the answer.
fn thinking_out(budget: u64, max_tokens: u64) -> Option<Value> {
    if budget == 0 {
        return Some(json!({"type": "disabled"}));
    }
    let budget = budget.max(MIN_THINKING_BUDGET).min(max_tokens.saturating_sub(1));
    (budget >= MIN_THINKING_BUDGET).then(|| json!({"type": "enabled", "budget_tokens": budget}))
}

/// "One call at a time" is said inside the choice, so a choice is made up for it where the client made none.
fn tool_choice_out(request: &Request) -> Option<Value> {
    let one_at_a_time = request.parallel_tools == Some(false) && !request.tools.is_empty();
    let mut choice = match &request.tool_choice {
        None if one_at_a_time => json!({"type": "auto"}),
        None => return None,
        Some(ToolChoice::None) => {
            return (!request.tools.is_empty()).then(|| json!({"type": "none"}));
        }
        Some(ToolChoice::Auto) if request.tools.is_empty() => return None,
        Some(ToolChoice::Auto) => json!({"type": "auto"}),
        Some(ToolChoice::Required) => json!({"type": "any"}),
        Some(ToolChoice::Named(name)) => json!({"type": "tool", "name": name}),
    };
    if one_at_a_time {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Some(choice)
}

fn tool_out(tool: Tool) -> Value {
    let mut out = json!({"name": tool.name});
    if let Some(description) = tool.description {
        out["description"] = description.into();
    }
    let mut schema = tool.schema;
    if let Value::Object(schema) = &mut schema {
        // Anthropic insists on what goes without saying.
        schema.entry("type").or_insert_with(|| json!("object"));
    }
    out["input_schema"] = schema;
    if tool.strict == Some(true) {
        out["strict"] = true.into();
    }
    out
}
