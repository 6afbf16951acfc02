//! A responses request, all but its input.

use serde::Serialize;
use serde_json::{Map, Number, Value, json};

use super::request_input::{self, Conversation};
use crate::wire::fields::Fields;
use crate::wire::openai_chat::named_schema;
use crate::wire::request::{Content, Output, Param, Request, Tool, ToolChoice};
use crate::wire::{WireError, json};

pub(in crate::wire) const UNSAYABLE: &[Param] =
    &[Param::Stop, Param::TopK, Param::Seed, Param::PresencePenalty, Param::FrequencyPenalty];

/// Reasoning for the next request, where the provider keeps nothing.
const ENCRYPTED_REASONING: &str = "reasoning.encrypted_content";

/// Fields that do not change what the model answers:
/// - `prompt_cache_*`: how `OpenAI` caches;
/// - `store`: what can be fetched later is settled before a request is translated;
/// - `stream_options`: padding against eavesdroppers on the stream, which the gateway writes itself.
const NEEDLESS: &[&str] = &["prompt_cache_options", "prompt_cache_retention", "store", "stream_options"];

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Request, WireError> {
    let mut fields = Fields::parse(body)?;
    fields.ignore(NEEDLESS);
    fields.only("truncation", &[json!("disabled")])?;
    // Without it, reasoning is given in whatever form the other wire has.
    fields.only("include", &[json!([ENCRYPTED_REASONING]), json!([])])?;
    for kept in ["previous_response_id", "conversation"] {
        if fields.take(kept).is_some() {
            let message = format!(
                "`{kept}` needs an agent, whose sessions the gateway keeps: name one in the header x-trunkline-agent or as \
                 the model 'agent/NAME', or send the whole conversation in `input`."
            );
            return Err(WireError::at(kept, message));
        }
    }
    let user = fields.string("user")?;
    let (effort, show_thinking) = reasoning(&mut fields)?;
    let (output, verbosity) = text(&mut fields)?;
    let request = Request {
        model: fields.string("model")?.unwrap_or_default(),
        messages: request_input::parse(&mut fields)?,
        tools: tools(&mut fields)?,
        tool_choice: tool_choice(&mut fields)?,
        parallel_tools: fields.boolean("parallel_tool_calls")?,
        max_tokens: fields.integer("max_output_tokens")?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        stream: fields.boolean("stream")?.unwrap_or_default(),
        user: user.or(fields.string("safety_identifier")?),
        effort,
        show_thinking,
        output,
        verbosity,
        service_tier: fields.string("service_tier")?,
        metadata: fields.map("metadata")?,
        cache_key: fields.string("prompt_cache_key")?,
        ..Request::default()
    };
    fields.finish()?;
    Ok(request)
}

fn reasoning(fields: &mut Fields) -> Result<(Option<String>, Option<bool>), WireError> {
    let Some(mut reasoning) = fields.object("reasoning")? else {
        return Ok((None, None));
    };
    let effort = reasoning.string("effort")?;
    // The second is the name it had first.
    let summary = reasoning.string("summary")?.or(reasoning.string("generate_summary")?);
    reasoning.finish()?;
    Ok((effort, summary.map(|_| true)))
}

fn text(fields: &mut Fields) -> Result<(Option<Output>, Option<String>), WireError> {
    let Some(mut text) = fields.object("text")? else {
        return Ok((None, None));
    };
    let verbosity = text.string("verbosity")?;
    let output = match text.object("format")? {
        None => None,
        Some(mut format) => match format.required_string("type")?.as_str() {
            "text" => None,
            "json_object" => Some(Output::Json),
            "json_schema" => Some(named_schema(&mut format)?),
            _ => return Err(format.untranslatable_by("type")),
        },
    };
    text.finish()?;
    Ok((output, verbosity))
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, WireError> {
    let mut tools = Vec::new();
    for mut tool in fields.objects("tools")? {
        // Other types are tools that `OpenAI` runs or that its models were trained on.
        if tool.required_string("type")? != "function" {
            return Err(tool.untranslatable_by("type"));
        }
        tools.push(Tool {
            name: tool.required_string("name")?,
            description: tool.string("description")?,
            schema: tool.take("parameters").unwrap_or_else(|| json!({"type": "object", "properties": {}})),
            strict: tool.boolean("strict")?,
        });
        tool.finish()?;
    }
    Ok(tools)
}

fn tool_choice(fields: &mut Fields) -> Result<Option<ToolChoice>, WireError> {
    let mut choice = match fields.take("tool_choice") {
        None => return Ok(None),
        Some(Value::String(word)) => {
            let wrong = || fields.wrong("tool_choice", "`none`, `auto`, `required` or the name of a function");
            return ToolChoice::of_word(&word).map(Some).ok_or_else(wrong);
        }
        Some(object) => Fields::of(fields.path("tool_choice"), object)?,
    };
    if choice.required_string("type")? != "function" {
        return Err(choice.untranslatable_by("type"));
    }
    Ok(Some(ToolChoice::Named(choice.required_string("name")?)))
}

#[derive(Serialize)]
struct RequestOut<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<String>,
    input: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<String>,
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    include: &'static [&'static str],
    /// This wire keeps answers unless told not to; the others do not.
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
}

pub(in crate::wire) fn write(request: Request) -> Result<Vec<u8>, WireError> {
    let effort = request.nearest_effort();
    // Models that do not reason refuse to be asked for it.
    let reasons = effort.as_deref().is_some_and(|effort| effort != "none")
        || request.show_thinking == Some(true)
        || request
            .messages
            .iter()
            .flat_map(|message| &message.content)
            .any(|content| matches!(content, Content::Thinking { .. }));
    let has_tools = !request.tools.is_empty();
    // A choice among no tools is refused by `OpenAI`; only one that demands a tool says something then.
    let tool_choice = request.tool_choice.and_then(|choice| match choice {
        ToolChoice::None => has_tools.then(|| json!("none")),
        ToolChoice::Auto => has_tools.then(|| json!("auto")),
        ToolChoice::Required => Some(json!("required")),
        ToolChoice::Named(name) => Some(json!({"type": "function", "name": name})),
    });
    let Conversation { instructions, input } = request_input::write(request.messages)?;
    Ok(json::bytes(&RequestOut {
        model: &request.model,
        instructions,
        input,
        tools: request.tools.into_iter().map(tool_out).collect(),
        tool_choice,
        parallel_tool_calls: request.parallel_tools.filter(|_| has_tools),
        max_output_tokens: request.max_tokens,
        temperature: request.temperature,
        top_p: request.top_p,
        reasoning: reasoning_out(effort, request.show_thinking == Some(true)),
        text: text_out(request.output, request.verbosity),
        user: request.user,
        service_tier: request.service_tier,
        metadata: request.metadata,
        prompt_cache_key: request.cache_key,
        include: if reasons { &[ENCRYPTED_REASONING] } else { &[] },
        store: request.store.unwrap_or_default(),
        stream: request.stream.then_some(true),
    }))
}

fn reasoning_out(effort: Option<String>, show: bool) -> Option<Value> {
    let mut reasoning = Map::new();
    if let Some(effort) = effort {
        reasoning.insert("effort".to_owned(), effort.into());
    }
    if show {
        reasoning.insert("summary".to_owned(), "auto".into());
    }
    (!reasoning.is_empty()).then(|| reasoning.into())
}

fn text_out(output: Option<Output>, verbosity: Option<String>) -> Option<Value> {
    let mut text = Map::new();
    match output {
        None => {}
        Some(Output::Json) => _ = text.insert("format".to_owned(), json!({"type": "json_object"})),
        Some(Output::Schema { schema, name, strict }) => {
            let (name, strict) = (name.unwrap_or_else(|| "response".to_owned()), strict.unwrap_or(true));
            let format = json!({"type": "json_schema", "name": name, "schema": schema, "strict": strict});
            text.insert("format".to_owned(), format);
        }
    }
    if let Some(verbosity) = verbosity {
        text.insert("verbosity".to_owned(), verbosity.into());
    }
    (!text.is_empty()).then(|| text.into())
}

/// Here a tool is strict unless it says otherwise; in other wires it is the other way round.
fn tool_out(tool: Tool) -> Value {
    let mut out = json!({"type": "function", "name": tool.name});
    if let Some(description) = tool.description {
        out["description"] = description.into();
    }
    out["parameters"] = tool.schema;
    out["strict"] = tool.strict.unwrap_or_default().into();
    out
}
