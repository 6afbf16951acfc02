//! A `generateContent` request, all but its contents.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value, json};

use super::request_contents::{self, Conversation};
use super::schema::to_json_schema;
use crate::wire::fields::Fields;
use crate::wire::request::{Output, Param, Request, Tool, ToolChoice};
use crate::wire::{WireError, json};

/// What this wire has no words for.
pub(in crate::wire) const UNSAYABLE: &[Param] = &[Param::SingleTool, Param::Verbosity, Param::Metadata, Param::Store];

/// Fields that do not change what the model answers:
/// - `model`: stands in the URL;
/// - `labels`, `store`: about Google's own bills and logs.
const NEEDLESS: &[&str] = &["model", "labels", "store"];

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Request, WireError> {
    let mut fields = Fields::parse(body)?.in_camel_case();
    fields.ignore(NEEDLESS);
    let messages = request_contents::parse(&mut fields)?;
    let mut tools = tools(&mut fields)?;
    let tool_choice = tool_choice(&mut fields, &mut tools)?;
    let service_tier = match fields.string("serviceTier")? {
        Some(tier) if matches!(tier.as_str(), "standard" | "unspecified") => None,
        other => other,
    };
    let mut request = Request { messages, tools, tool_choice, service_tier, ..Request::default() };
    if let Some(config) = fields.object("generationConfig")? {
        generation_config(config.in_camel_case(), &mut request)?;
    }
    fields.finish()?;
    Ok(request)
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, WireError> {
    let mut tools = Vec::new();
    for tool in fields.objects("tools")? {
        let mut tool = tool.in_camel_case();
        for function in tool.objects("functionDeclarations")? {
            let mut function = function.in_camel_case();
            // What it returns is for the client to know; and how a live session waits for it.
            function.ignore(&["response", "responseJsonSchema", "behavior"]);
            let schema = match (function.take("parametersJsonSchema"), function.take("parameters")) {
                (Some(schema), _) => schema,
                (None, Some(schema)) => to_json_schema(schema),
                (None, None) => json!({"type": "object", "properties": {}}),
            };
            tools.push(Tool {
                name: function.required_string("name")?,
                description: function.string("description")?,
                schema,
                strict: None,
            });
            function.finish()?;
        }
        // Tools that Google runs: `googleSearch`, `codeExecution`, …
        tool.finish()?;
    }
    Ok(tools)
}

/// Names of allowed functions are said by leaving out the other functions.
fn tool_choice(fields: &mut Fields, tools: &mut Vec<Tool>) -> Result<Option<ToolChoice>, WireError> {
    let Some(config) = fields.object("toolConfig")? else {
        return Ok(None);
    };
    let mut config = config.in_camel_case();
    let mut choice = None;
    if let Some(calling) = config.object("functionCallingConfig")? {
        let mut calling = calling.in_camel_case();
        let allowed = strings(&mut calling, "allowedFunctionNames")?;
        let mode = calling.string("mode")?.map(|mode| mode.to_uppercase());
        choice = match mode.as_deref() {
            None | Some("MODE_UNSPECIFIED") => None,
            // What the arguments look like is left to the model elsewhere.
            Some("AUTO" | "VALIDATED") => Some(ToolChoice::Auto),
            Some("ANY") if allowed.len() == 1 => Some(ToolChoice::Named(allowed[0].clone())),
            Some("ANY") => Some(ToolChoice::Required),
            Some("NONE") => Some(ToolChoice::None),
            Some(_) => return Err(calling.wrong("mode", "`AUTO`, `ANY`, `NONE` or `VALIDATED`")),
        };
        if allowed.len() > 1 || (!allowed.is_empty() && mode.as_deref() == Some("VALIDATED")) {
            tools.retain(|tool| allowed.contains(&tool.name));
        }
        calling.finish()?;
    }
    config.finish()?;
    Ok(choice)
}

fn strings(fields: &mut Fields, key: &str) -> Result<Vec<String>, WireError> {
    let strings = fields.array(key)?.unwrap_or_default().into_iter();
    let strings = strings.map(|string| match string {
        Value::String(string) => Ok(string),
        _ => Err(fields.wrong(key, "an array of strings")),
    });
    strings.collect()
}

fn generation_config(mut config: Fields, request: &mut Request) -> Result<(), WireError> {
    // How closely to look at images is a matter of cost.
    config.ignore(&["mediaResolution"]);
    config.only("candidateCount", &[json!(1)])?;
    config.only("responseModalities", &[json!(["TEXT"]), json!(["text"]), json!(["Text"])])?;
    request.max_tokens = config.integer("maxOutputTokens")?;
    request.stop = strings(&mut config, "stopSequences")?;
    request.temperature = config.number("temperature")?;
    request.top_p = config.number("topP")?;
    request.top_k = match config.number("topK")? {
        None => None,
        Some(number) => Some(whole(&number).ok_or_else(|| config.wrong("topK", "a whole number"))?),
    };
    request.seed = config.number("seed")?;
    request.presence_penalty = config.number("presencePenalty")?;
    request.frequency_penalty = config.number("frequencyPenalty")?;
    request.output = output(&mut config)?;
    if let Some(thinking) = config.object("thinkingConfig")? {
        thinking_config(thinking.in_camel_case(), request)?;
    }
    config.finish()
}

/// Google's clients write `topK` as `40.0`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a small whole number")]
fn whole(number: &Number) -> Option<u64> {
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..1e9).contains(float));
    number.as_u64().or_else(|| float().map(|float| float as u64))
}

fn output(config: &mut Fields) -> Result<Option<Output>, WireError> {
    let schema = config.take("responseJsonSchema").or(config.take("_responseJsonSchema"));
    let schema = schema.or(config.take("responseSchema").map(to_json_schema));
    match config.string("responseMimeType")?.as_deref() {
        None | Some("text/plain") => Ok(None),
        Some("application/json") => Ok(Some(match schema {
            Some(schema) => Output::Schema { schema, name: None, strict: None },
            None => Output::Json,
        })),
        // `text/x.enum`: one of a few words.
        Some(_) => Err(config.untranslatable("responseMimeType")),
    }
}

fn thinking_config(mut thinking: Fields, request: &mut Request) -> Result<(), WireError> {
    request.show_thinking = thinking.boolean("includeThoughts")?;
    request.effort = match thinking.string("thinkingLevel")?.map(|level| level.to_lowercase()) {
        Some(level) if level == "thinking_level_unspecified" => None,
        level => level,
    };
    match thinking.number("thinkingBudget")? {
        // As much as the model likes, which is what others do anyway.
        Some(budget) if budget.as_i64() == Some(-1) => {}
        Some(budget) => {
            let budget = budget.as_u64().ok_or_else(|| thinking.wrong("thinkingBudget", "a whole number"))?;
            request.thinking_budget = Some(budget);
        }
        None => {}
    }
    thinking.finish()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Box<RawValue>>,
    contents: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_config: Option<ConfigOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a str>,
}

#[derive(Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<Value>,
}

pub(in crate::wire) fn write(mut request: Request) -> Result<Vec<u8>, WireError> {
    let messages = std::mem::take(&mut request.messages);
    let Conversation { system_instruction, contents } = request_contents::write(&messages, checks_signatures(&request.model))?;
    let tools = std::mem::take(&mut request.tools);
    let tool_config = tool_config(&request, &tools);
    let declarations: Vec<Value> = tools.into_iter().map(declaration).collect();
    let config = ConfigOut {
        max_output_tokens: request.max_tokens,
        stop_sequences: &request.stop,
        temperature: request.temperature.as_ref(),
        top_p: request.top_p.as_ref(),
        top_k: request.top_k,
        seed: request.seed.as_ref(),
        presence_penalty: penalty(request.presence_penalty.as_ref()),
        frequency_penalty: penalty(request.frequency_penalty.as_ref()),
        response_mime_type: request.output.as_ref().map(|_| "application/json"),
        response_json_schema: request.output.as_ref().and_then(|output| match output {
            Output::Json => None,
            Output::Schema { schema, .. } => Some(schema),
        }),
        thinking_config: thinking_out(&request),
    };
    Ok(json::bytes(&RequestOut {
        system_instruction,
        contents,
        tools: if declarations.is_empty() { Vec::new() } else { vec![json!({"functionDeclarations": declarations})] },
        tool_config,
        generation_config: (config != ConfigOut::default()).then_some(config),
        service_tier: request.service_tier.as_deref().filter(|tier| !matches!(*tier, "auto" | "default")),
    }))
}

/// Many models refuse the very mention of a penalty.
fn penalty(number: Option<&Number>) -> Option<&Number> {
    number.filter(|number| number.as_f64() != Some(0.0))
}

/// Models before Gemini 3, by name.
fn is_old(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or_default();
    ["gemini-1", "gemini-2", "gemma-"].iter().any(|old| name.starts_with(old))
}

/// From Gemini 3 on, a tool call without a signature is refused.
fn checks_signatures(model: &str) -> bool {
    !is_old(model)
}

/// `VALIDATED` is how this wire has arguments follow their schema to the letter.
fn tool_config(request: &Request, tools: &[Tool]) -> Option<Value> {
    let strict = tools.iter().any(|tool| tool.strict == Some(true));
    let mode = |mode: &str| json!({"functionCallingConfig": {"mode": mode}});
    match &request.tool_choice {
        _ if tools.is_empty() => None,
        None | Some(ToolChoice::Auto) if strict => Some(mode("VALIDATED")),
        None => None,
        Some(ToolChoice::Auto) => Some(mode("AUTO")),
        Some(ToolChoice::None) => Some(mode("NONE")),
        Some(ToolChoice::Required) => Some(mode("ANY")),
        Some(ToolChoice::Named(name)) => Some(json!({"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}})),
    }
}

/// Gemini takes JSON Schema as it is, but for the name of its dialect; a function without parameters has none to describe.
fn declaration(tool: Tool) -> Value {
    let mut out = Map::new();
    out.insert("name".to_owned(), tool.name.into());
    if let Some(description) = tool.description {
        out.insert("description".to_owned(), description.into());
    }
    let mut schema = tool.schema;
    if let Value::Object(schema) = &mut schema {
        schema.shift_remove("$schema");
    }
    if describes_something(&schema) {
        out.insert("parametersJsonSchema".to_owned(), schema);
    }
    Value::Object(out)
}

fn describes_something(schema: &Value) -> bool {
    let Value::Object(schema) = schema else {
        return !schema.is_null();
    };
    schema.iter().any(|(key, value)| match key.as_str() {
        "type" | "title" | "description" => false,
        "properties" => value.as_object().is_some_and(|properties| !properties.is_empty()),
        "required" => value.as_array().is_some_and(|required| !required.is_empty()),
        "additionalProperties" => !value.is_boolean(),
        _ => true,
    })
}

/// Old models take a budget of tokens, newer ones a level. The budgets are those that Google's own endpoint in `OpenAI`'s wire
/// takes for an effort. Newer models cannot be kept from thinking at all.
fn thinking_out(request: &Request) -> Option<Value> {
    let mut out = Map::new();
    if is_old(&request.model) {
        let budget = request.thinking_budget.or(request.effort.as_deref().map(|effort| match effort {
            "none" => 0,
            "minimal" | "low" => 1024,
            "medium" => 8192,
            _ => 24_576,
        }));
        out.extend(budget.map(|budget| ("thinkingBudget".to_owned(), budget.into())));
    } else if let Some(effort) = request.nearest_effort() {
        let level = match effort.as_str() {
            "none" | "minimal" => "minimal",
            "low" => "low",
            "medium" => "medium",
            _ => "high",
        };
        out.insert("thinkingLevel".to_owned(), level.into());
    }
    if let Some(show) = request.show_thinking {
        out.insert("includeThoughts".to_owned(), show.into());
    }
    (!out.is_empty()).then(|| out.into())
}
