//! A chat completion request, all but its messages.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value, json};

use super::request_messages;
use crate::wire::fields::Fields;
use crate::wire::request::{Request, Tool, ToolChoice};
use crate::wire::{WireError, json};

/// Fields that do not change what the model answers:
/// - `seed`: `OpenAI` promises no more than an attempt;
/// - `prediction`: only makes the answer faster;
/// - `store`, `metadata`: about `OpenAI`'s own log of completions;
/// - `prompt_cache_*`: where `OpenAI` caches;
/// - `stream_options`: about the stream, which the gateway writes itself.
const NEEDLESS: &[&str] = &[
    "seed",
    "prediction",
    "store",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "stream_options",
];

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Request, WireError> {
    let mut fields = Fields::parse(body)?;
    fields.ignore(NEEDLESS);
    fields.only("n", &[json!(1)])?;
    fields.only("modalities", &[json!(["text"])])?;
    fields.only("service_tier", &[json!("auto"), json!("default")])?;
    fields.only("verbosity", &[json!("medium")])?;
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
        output_schema: output_schema(&mut fields)?,
    };
    fields.finish()?;
    Ok(request)
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, WireError> {
    let mut tools = Vec::new();
    for mut tool in fields.objects("tools")? {
        if tool.required_string("type")? != "function" {
            return Err(tool.untranslatable("type"));
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
            return match word.as_str() {
                "none" => Ok(Some(ToolChoice::None)),
                "auto" => Ok(Some(ToolChoice::Auto)),
                "required" => Ok(Some(ToolChoice::Required)),
                _ => Err(fields.wrong("tool_choice", "`none`, `auto`, `required` or the name of a function")),
            };
        }
        Some(object) => Fields::of(fields.path("tool_choice"), object)?,
    };
    if choice.required_string("type")? != "function" {
        return Err(choice.untranslatable("type"));
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

fn output_schema(fields: &mut Fields) -> Result<Option<Value>, WireError> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok(None);
    };
    match format.required_string("type")?.as_str() {
        "text" => Ok(None),
        "json_schema" => {
            let schema = format.object("json_schema")?.and_then(|mut named| named.take("schema"));
            schema.map(Some).ok_or_else(|| format.wrong("json_schema", "an object with a `schema`"))
        }
        // `json_object`: any JSON; other wires want a schema.
        _ => Err(format.untranslatable("type")),
    }
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
    reasoning_effort: Option<String>,
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
    let has_tools = !request.tools.is_empty();
    let tools = request.tools.into_iter().map(tool_out).collect();
    // A choice among no tools is refused by `OpenAI`; only one that demands a tool says something then.
    let tool_choice = request.tool_choice.and_then(|choice| match choice {
        ToolChoice::None => has_tools.then(|| json!("none")),
        ToolChoice::Auto => has_tools.then(|| json!("auto")),
        ToolChoice::Required => Some(json!("required")),
        ToolChoice::Named(name) => Some(json!({"type": "function", "function": {"name": name}})),
    });
    let response_format = request
        .output_schema
        .map(|schema| json!({"type": "json_schema", "json_schema": {"name": "response", "schema": schema, "strict": true}}));
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
        reasoning_effort: request.effort,
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
