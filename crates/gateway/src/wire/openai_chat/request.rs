//! A chat completion request, all but its messages.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value, json};

use super::request_messages;
use crate::wire::fields::Fields;
use crate::wire::request::{Output, Param, Request, Tool, ToolChoice};
use crate::wire::{WireError, json};

/// Fields that do not change what the model answers:
/// - `prediction`: only makes the answer faster;
/// - `prompt_cache_*`: how `OpenAI` caches;
/// - `stream_options`: about the stream, which the gateway writes itself.
const NEEDLESS: &[&str] = &["prediction", "prompt_cache_options", "prompt_cache_retention", "stream_options"];

/// Some hosts of this wire know `top_k`, but `OpenAI` refuses it.
pub(in crate::wire) const UNSAYABLE: &[Param] = &[Param::TopK];

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Request, WireError> {
    let mut fields = Fields::parse(body)?;
    fields.ignore(NEEDLESS);
    fields.only("n", &[json!(1)])?;
    fields.only("modalities", &[json!(["text"])])?;
    if fields.take("functions").is_some() || fields.take("function_call").is_some() {
        let message = "`functions` and `function_call` are outdated: use `tools` and `tool_choice`.";
        return Err(WireError::at("functions", message));
    }
    let max_completion_tokens = fields.integer("max_completion_tokens")?;
    let user = fields.string("user")?;
    let request = Request {
        model: fields.string("model")?.unwrap_or_default(),
        messages: request_messages::parse(&mut fields)?,
        tools: tools(&mut fields)?,
        tool_choice: tool_choice(&mut fields)?,
        parallel_tools: fields.boolean("parallel_tool_calls")?,
        max_tokens: max_completion_tokens.or(fields.integer("max_tokens")?),
        stop: stop(&mut fields)?,
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        stream: fields.boolean("stream")?.unwrap_or_default(),
        // `OpenAI`'s newer name for a hash of the user.
        user: user.or(fields.string("safety_identifier")?),
        effort: fields.string("reasoning_effort")?,
        output: output(&mut fields)?,
        seed: fields.number("seed")?,
        presence_penalty: fields.number("presence_penalty")?,
        frequency_penalty: fields.number("frequency_penalty")?,
        verbosity: fields.string("verbosity")?,
        service_tier: fields.string("service_tier")?,
        metadata: fields.map("metadata")?,
        store: fields.boolean("store")?,
        cache_key: fields.string("prompt_cache_key")?,
        ..Request::default()
    };
    fields.finish()?;
    Ok(request)
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, WireError> {
    let mut tools = Vec::new();
    for mut tool in fields.objects("tools")? {
        if tool.required_string("type")? != "function" {
            return Err(tool.untranslatable_by("type"));
        }
        let mut function = tool.object("function")?.ok_or_else(|| tool.wrong("function", "an object; it is missing"))?;
        tools.push(Tool {
            name: function.required_string("name")?,
            description: function.string("description")?,
            schema: function.take("parameters").unwrap_or_else(|| json!({})),
            strict: function.boolean("strict")?,
        });
        function.finish()?;
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
    let function = choice.object("function")?;
    let mut function = function.ok_or_else(|| choice.wrong("function", "an object; it is missing"))?;
    Ok(Some(ToolChoice::Named(function.required_string("name")?)))
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, WireError> {
    let wrong = |fields: &Fields| fields.wrong("stop", "a string or an array of strings");
    match fields.take("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop]),
        Some(Value::Array(stops)) => stops
            .into_iter()
            .map(|stop| match stop {
                Value::String(stop) => Ok(stop),
                _ => Err(wrong(fields)),
            })
            .collect(),
        Some(_) => Err(wrong(fields)),
    }
}

fn output(fields: &mut Fields) -> Result<Option<Output>, WireError> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok(None);
    };
    match format.required_string("type")?.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(Output::Json)),
        "json_schema" => {
            let named = format.object("json_schema")?;
            let mut named = named.ok_or_else(|| format.wrong("json_schema", "an object with a `schema`"))?;
            named_schema(&mut named).map(Some)
        }
        _ => Err(format.untranslatable_by("type")),
    }
}

/// A schema with its name and description, as both of `OpenAI`'s wires have it.
pub(in crate::wire) fn named_schema(named: &mut Fields) -> Result<Output, WireError> {
    let mut schema = named.take("schema").ok_or_else(|| named.wrong("schema", "a JSON Schema; it is missing"))?;
    if let (Some(description), Value::Object(schema)) = (named.string("description")?, &mut schema) {
        schema.entry("description").or_insert(description.into());
    }
    Ok(Output::Schema { schema, name: named.string("name")?, strict: named.boolean("strict")? })
}

#[derive(Serialize)]
struct RequestOut<'a> {
    model: &'a str,
    messages: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    /// The older `max_tokens` is refused by `OpenAI`'s reasoning models.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verbosity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    /// Without it no usage would come, and usage is always recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
}

pub(in crate::wire) fn write(request: Request) -> Result<Vec<u8>, WireError> {
    let reasoning_effort = request.nearest_effort();
    let has_tools = !request.tools.is_empty();
    let tools = request.tools.into_iter().map(tool_out).collect();
    // A choice among no tools is refused by `OpenAI`; only one that demands a tool says something then.
    let tool_choice = request.tool_choice.and_then(|choice| match choice {
        ToolChoice::None => has_tools.then(|| json!("none")),
        ToolChoice::Auto => has_tools.then(|| json!("auto")),
        ToolChoice::Required => Some(json!("required")),
        ToolChoice::Named(name) => Some(json!({"type": "function", "function": {"name": name}})),
    });
    let response_format = request.output.map(|output| match output {
        Output::Json => json!({"type": "json_object"}),
        Output::Schema { schema, name, strict } => {
            let (name, strict) = (name.unwrap_or_else(|| "response".to_owned()), strict.unwrap_or(true));
            json!({"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": strict}})
        }
    });
    Ok(json::bytes(&RequestOut {
        model: &request.model,
        messages: request_messages::write(request.messages)?,
        tools: has_tools.then_some(tools),
        tool_choice,
        parallel_tool_calls: request.parallel_tools.filter(|_| has_tools),
        max_completion_tokens: request.max_tokens,
        stop: &request.stop,
        temperature: request.temperature,
        top_p: request.top_p,
        seed: request.seed,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        reasoning_effort,
        verbosity: request.verbosity,
        service_tier: request.service_tier,
        metadata: request.metadata,
        store: request.store.filter(|store| *store),
        prompt_cache_key: request.cache_key,
        response_format,
        user: request.user,
        stream: request.stream.then_some(true),
        stream_options: request.stream.then(|| json!({"include_usage": true})),
    }))
}

fn tool_out(tool: Tool) -> Value {
    let mut function = json!({"name": tool.name});
    if let Some(description) = tool.description {
        function["description"] = description.into();
    }
    function["parameters"] = tool.schema;
    if let Some(strict) = tool.strict {
        function["strict"] = strict.into();
    }
    json!({"type": "function", "function": function})
}
