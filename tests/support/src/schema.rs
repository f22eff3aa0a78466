//! A validator for the part of JSON Schema that `docs/*.schema.json` use.

use serde_json::Value;

/// Panics where `value` does not match the schema: a missing field, an undescribed field, a wrong
/// type.
#[track_caller]
pub fn assert_matches_schema(value: &Value, schema: &Value) {
    let mut errors = Vec::new();
    check(value, schema, schema, "", &mut errors);
    assert!(errors.is_empty(), "{errors:#?}\nin {value:#}");
}

fn check(value: &Value, schema: &Value, root: &Value, at: &str, errors: &mut Vec<String>) {
    if let Some(path) = schema["$ref"].as_str() {
        let target = root.pointer(path.trim_start_matches('#')).expect("a definition");
        return check(value, target, root, at, errors);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = |schema: &&Value| {
            let mut errors = Vec::new();
            check(value, schema, root, at, &mut errors);
            errors.is_empty()
        };
        if !any.iter().any(|schema| fits(&schema)) {
            errors.push(format!("{at}: {value} matches none of {any:?}"));
        }
        return;
    }
    let known: Vec<_> = schema.as_object().expect("an object").keys().map(String::as_str).collect();
    let supported = ["type", "properties", "required", "items", "enum", "const", "description"];
    assert!(
        known.iter().all(|key| supported.contains(key)),
        "{at}: {known:?} has a keyword that this validator does not support"
    );
    if let Some(wanted) = schema.get("const")
        && value != wanted
    {
        errors.push(format!("{at}: {value} is not {wanted}"));
    }
    if let Some(of) = schema["enum"].as_array()
        && !of.contains(value)
    {
        errors.push(format!("{at}: {value} is not one of {of:?}"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|kind| is(value, kind)) {
        errors.push(format!("{at}: {value} is not of type {types:?}"));
    }
    if let Some(properties) = schema["properties"].as_object() {
        let Some(fields) = value.as_object() else { return };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                errors.push(format!("{at}/{name} is missing"));
            }
        }
        for (name, value) in fields {
            match properties.get(name) {
                Some(schema) => check(value, schema, root, &format!("{at}/{name}"), errors),
                None => errors.push(format!("{at}/{name} is not described")),
            }
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().enumerate().for_each(|(i, value)| check(value, items, root, &format!("{at}/{i}"), errors));
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_u64(),
        _ => panic!("type {kind:?}"),
    }
}
