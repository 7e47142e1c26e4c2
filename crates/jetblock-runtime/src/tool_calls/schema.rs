//! What the tools of a request say about their parameters, as far as reading a value needs it.

use serde_json::Value;

/// The tools of a request.
pub(super) struct Tools<'a>(Vec<Tool<'a>>);

/// A function that the model may call.
pub(super) struct Tool<'a> {
    name: &'a str,
    parameters: &'a Value,
}

impl<'a> Tools<'a> {
    /// Tools as the OpenAI format has them, or bare functions.
    pub(super) fn new(tools: &'a [Value]) -> Tools<'a> {
        let tool = |tool: &'a Value| {
            let function = tool.get("function").unwrap_or(tool);
            Some(Tool {
                name: function["name"].as_str()?,
                parameters: &function["parameters"],
            })
        };
        Tools(tools.iter().filter_map(tool).collect())
    }

    pub(super) fn get(&self, name: &str) -> Result<&Tool<'a>, String> {
        self.0.iter().find(|tool| tool.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|tool| tool.name).collect();
            format!(
                "expected one of the tools {}, got {name:?}",
                names.join(", ")
            )
        })
    }
}

impl Tool<'_> {
    /// The schema of a parameter.
    fn parameter(&self, name: &str) -> Result<&Value, String> {
        let others = &self.parameters["additionalProperties"];
        match self.parameters["properties"].get(name) {
            Some(schema) => Ok(schema),
            None if others.is_object() || others == &Value::Bool(true) => Ok(others),
            None => Err(format!("tool {} has no parameter {name:?}", self.name)),
        }
    }

    /// Whether there is such a parameter.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        self.parameter(name).map(|_| ())
    }

    /// The value that a text is, given the parameter's type: strings are the text itself, other types are JSON, with
    /// Python's spelling of `true`, `false` and `null` allowed, which templates put into prompts. A parameter that may be
    /// a string, or whose type is not stated, is a string.
    pub(super) fn value(&self, name: &str, text: &str) -> Result<Value, String> {
        let mut types = Vec::new();
        collect_types(self.parameter(name)?, &mut types);
        if types.is_empty() || types.contains(&"string") {
            return Ok(text.into());
        }
        let trimmed = text.trim();
        let value = match trimmed {
            "True" => Some(true.into()),
            "False" => Some(false.into()),
            "None" => Some(Value::Null),
            _ => serde_json::from_str(trimmed).ok(),
        };
        value
            .filter(|value| types.iter().any(|kind| is_of_type(value, kind)))
            .ok_or_else(|| {
                let types = types.join(" or ");
                format!(
                    "parameter {name} of {} is {text:?}, expected {types}",
                    self.name
                )
            })
    }
}

/// The types that a schema names, also through alternatives.
fn collect_types<'a>(schema: &'a Value, types: &mut Vec<&'a str>) {
    match &schema["type"] {
        Value::String(name) => types.push(name),
        Value::Array(names) => types.extend(names.iter().filter_map(Value::as_str)),
        _ => {}
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for part in schema[key].as_array().into_iter().flatten() {
            collect_types(part, types);
        }
    }
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        // An integer that needs more than 64 bits would have lost digits.
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
