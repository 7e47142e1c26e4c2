//! One call of the XML format: a function with its parameters.
//!
//! ```text
//! <function=NAME>
//! <parameter=P>
//! VALUE
//! </parameter>
//! </function>
//! ```
//!
//! Whitespace between tags means nothing. A value ends at the first `</parameter>` (the format has no escapes); one
//! newline on each side of it belongs to the tags, all else to the value.

use serde_json::{Map, Value};

use super::Scanner;
use super::schema::Tools;
use crate::FunctionCall;

pub(super) fn function(
    scanner: &mut Scanner<'_>,
    tools: &Tools<'_>,
) -> Result<FunctionCall, String> {
    scanner.space();
    let name = name(scanner, "<function=")?;
    let tool = tools.get(name)?;
    let mut arguments = Map::new();
    loop {
        scanner.space();
        if scanner.take("</function>") {
            return Ok(FunctionCall {
                name: name.to_owned(),
                arguments: Value::Object(arguments),
            });
        }
        let name = self::name(scanner, "<parameter=")?;
        let value = scanner.until("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let value = tool.value(name, value)?;
        if arguments.insert(name.to_owned(), value).is_some() {
            return Err(format!("parameter {name} is given twice"));
        }
    }
}

/// The name in a tag such as `<function=NAME>`.
fn name<'a>(scanner: &mut Scanner<'a>, open: &str) -> Result<&'a str, String> {
    scanner.expect(open)?;
    let name = scanner.until(">")?;
    match name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '<') {
        true => Err(format!("expected {open}NAME>, got the name {name:?}")),
        false => Ok(name),
    }
}
