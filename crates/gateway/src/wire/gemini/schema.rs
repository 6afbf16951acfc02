//! Gemini's own kind of schema, a subset of `OpenAPI` 3.0's, said in JSON Schema.
//!
//! Only read: Gemini itself takes JSON Schema, in fields of its own (`parametersJsonSchema`, `responseJsonSchema`).

use serde_json::{Map, Value, json};

use crate::wire::fields::camel_case;

/// `schema` in JSON Schema. Types get their small letters, `nullable` becomes a type, numbers that Google writes as text become
/// numbers, and what only orders or illustrates (`propertyOrdering`, `example`) is left out. Unknown words stay.
pub(super) fn to_json_schema(schema: Value) -> Value {
    let Value::Object(schema) = schema else {
        return schema;
    };
    let mut out = Map::new();
    let mut nullable = false;
    for (key, value) in schema {
        match key.as_str() {
            "type" => match value {
                Value::String(name) if name == "TYPE_UNSPECIFIED" => {}
                Value::String(name) => _ = out.insert(key, name.to_lowercase().into()),
                other => _ = out.insert(key, other),
            },
            // It says no more than `enum` does, and elsewhere it is no format.
            "format" if value == "enum" => {}
            "nullable" => nullable = value == true,
            "propertyOrdering" | "property_ordering" | "example" => {}
            "properties" | "$defs" | "defs" => {
                let key = if key == "defs" { "$defs".to_owned() } else { key };
                out.insert(key, each(value));
            }
            "ref" => _ = out.insert("$ref".to_owned(), value),
            "items" | "additionalProperties" | "additional_properties" => _ = out.insert(camel_case(&key), to_json_schema(value)),
            "anyOf" | "any_of" | "oneOf" | "allOf" | "prefixItems" => _ = out.insert(camel_case(&key), all(value)),
            "maxItems" | "minItems" | "maxLength" | "minLength" | "maxProperties" | "minProperties" | "max_items"
            | "min_items" | "max_length" | "min_length" | "max_properties" | "min_properties" => {
                let number = value.as_str().and_then(|text| text.parse::<u64>().ok()).map(Value::from);
                out.insert(camel_case(&key), number.unwrap_or(value));
            }
            _ => _ = out.insert(key, value),
        }
    }
    if nullable { or_null(out) } else { Value::Object(out) }
}

fn each(schemas: Value) -> Value {
    match schemas {
        Value::Object(schemas) => schemas.into_iter().map(|(name, schema)| (name, to_json_schema(schema))).collect(),
        other => other,
    }
}

fn all(schemas: Value) -> Value {
    match schemas {
        Value::Array(schemas) => schemas.into_iter().map(to_json_schema).collect(),
        other => other,
    }
}

fn or_null(mut schema: Map<String, Value>) -> Value {
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    match schema.get_mut("type") {
        Some(name @ Value::String(_)) => *name = json!([name.take(), "null"]),
        _ => return json!({"anyOf": [schema, {"type": "null"}]}),
    }
    Value::Object(schema)
}
