//! A JSON object of a request, taken apart field by field, so that whatever is left over can be refused by name.

use serde_json::{Map, Number, Value};

use super::WireError;

/// What is left of an object, and where in the request it stands.
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
    /// Keys that were renamed, and what the client calls them.
    renamed: Vec<(String, String)>,
}

impl Fields {
    /// The request body itself.
    pub(super) fn parse(body: &[u8]) -> Result<Self, WireError> {
        let value = serde_json::from_slice(body).map_err(|error| WireError::json(&error))?;
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map, renamed: Vec::new() }),
            _ => Err(WireError::new("The request body must be a JSON object.")),
        }
    }

    /// An object inside the body, at `path`.
    pub(super) fn of(path: String, value: Value) -> Result<Self, WireError> {
        match value {
            Value::Object(map) => Ok(Self { path, map, renamed: Vec::new() }),
            _ => Err(WireError::at(&path, format!("`{path}` must be an object."))),
        }
    }

    /// The same with its keys in `camelCase`, for wires that take `snake_case` as well.
    pub(super) fn in_camel_case(mut self) -> Self {
        if self.map.keys().any(|key| key.contains('_')) {
            for (key, value) in std::mem::take(&mut self.map) {
                let name = camel_case(&key);
                if name != key {
                    self.renamed.push((name.clone(), key));
                }
                self.map.insert(name, value);
            }
        }
        self
    }

    /// Where the field `key` of this object stands in the request.
    pub(super) fn path(&self, key: &str) -> String {
        let key = self.renamed.iter().find(|(name, _)| name == key).map_or(key, |(_, sent)| sent);
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key`, unless absent or null.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn string(&mut self, key: &str) -> Result<Option<String>, WireError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    pub(super) fn required_string(&mut self, key: &str) -> Result<String, WireError> {
        self.string(key)?.ok_or_else(|| self.wrong(key, "a string; it is missing"))
    }

    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<bool>, WireError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    pub(super) fn integer(&mut self, key: &str) -> Result<Option<u64>, WireError> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<Number>, WireError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    pub(super) fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>, WireError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(self.wrong(key, "an array")),
        }
    }

    /// An object kept as it is; empty if absent.
    pub(super) fn map(&mut self, key: &str) -> Result<Map<String, Value>, WireError> {
        match self.take(key) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Option<Fields>, WireError> {
        let path = self.path(key);
        self.take(key).map(|value| Fields::of(path, value)).transpose()
    }

    /// Objects of an array, each knowing its place; empty if absent.
    pub(super) fn objects(&mut self, key: &str) -> Result<Vec<Fields>, WireError> {
        let items = self.array(key)?.unwrap_or_default();
        let path = self.path(key);
        items.into_iter().enumerate().map(|(at, item)| Fields::of(format!("{path}[{at}]"), item)).collect()
    }

    /// Forget fields that the other wire can do without; the caller says why.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.map.remove(*key);
        }
    }

    /// Refuse `key` unless it is absent or one of `values`, which say no more than its absence.
    pub(super) fn only(&mut self, key: &str, values: &[Value]) -> Result<(), WireError> {
        match self.take(key) {
            Some(value) if !values.contains(&value) => Err(self.untranslatable(key)),
            _ => Ok(()),
        }
    }

    /// The error for a field whose type is wrong.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> WireError {
        let path = self.path(key);
        WireError::at(&path, format!("`{path}` must be {expected}."))
    }

    /// The error for a field, or a value of it, that the other wire has no words for.
    pub(super) fn untranslatable(&self, key: &str) -> WireError {
        WireError::untranslatable(&self.path(key))
    }

    /// The same where the object cannot be said because of that value, so that it is the object that may be left out.
    pub(super) fn untranslatable_by(&self, key: &str) -> WireError {
        WireError { droppable: Some(self.path.clone()), ..self.untranslatable(key) }
    }

    /// All that is left must say nothing (null, false, zero, empty); otherwise it would be lost, so it is an error.
    pub(super) fn finish(self) -> Result<(), WireError> {
        match self.map.iter().find(|(_, value)| !says_nothing(value)) {
            Some((key, _)) => Err(self.untranslatable(key)),
            None => Ok(()),
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// `max_items` as `maxItems`; a name that begins with `_` keeps that.
pub(super) fn camel_case(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut capital = false;
    for letter in key.chars() {
        match letter {
            '_' if !out.is_empty() => capital = true,
            letter if capital => {
                out.extend(letter.to_uppercase());
                capital = false;
            }
            letter => out.push(letter),
        }
    }
    out
}
