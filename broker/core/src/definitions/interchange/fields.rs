//! The fields of one item of a section: found, checked, and named where they are wrong.

use serde_json::{Map, Value};
use warren_protocol::table::FieldTable;

use super::values::{self, WrongValue};
use super::{NAME_BYTES_MAX, ParseError, Place, Section, TAGS_MAX, TEXT_BYTES_MAX};

/// One item of a section.
pub(super) struct Item<'a> {
    section: Section,
    index: usize,
    /// For error texts.
    name: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Item<'a> {
    /// # Errors
    /// When it is no object.
    pub(super) fn new(
        section: Section,
        index: usize,
        value: &'a Value,
    ) -> Result<Self, ParseError> {
        let Value::Object(fields) = value else {
            return Err(ParseError {
                place: Some(Place {
                    section,
                    index: Some(index),
                    name: String::new(),
                    field: String::new(),
                }),
                cause: "it must be an object".to_owned(),
            });
        };
        let text = |field: &str| fields.get(field).and_then(Value::as_str);
        let name = match section {
            Section::Permissions | Section::TopicPermissions => text("user"),
            Section::Bindings => text("source"),
            _ => text("name"),
        };
        Ok(Self {
            section,
            index,
            name: values::shortened(name.unwrap_or_default()),
            fields,
        })
    }

    pub(super) fn error(&self, field: &str, cause: impl Into<String>) -> ParseError {
        ParseError {
            place: Some(Place {
                section: self.section,
                index: Some(self.index),
                name: self.name.clone(),
                field: field.to_owned(),
            }),
            cause: cause.into(),
        }
    }

    /// The whole item as JSON text.
    pub(super) fn to_json(&self) -> String {
        let mut fields = self.fields.clone();
        fields.sort_keys();
        Value::Object(fields).to_string()
    }

    /// A field that is there and not `null`.
    pub(super) fn field(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn optional_text(&self, field: &str) -> Result<Option<&'a str>, ParseError> {
        let Some(value) = self.field(field) else {
            return Ok(None);
        };
        let Value::String(text) = value else {
            return Err(self.error(field, "it must be a string"));
        };
        if text.len() > TEXT_BYTES_MAX {
            let cause = format!("{} bytes, at most {TEXT_BYTES_MAX} are taken", text.len());
            return Err(self.error(field, cause));
        }
        Ok(Some(text))
    }

    pub(super) fn text(&self, field: &str) -> Result<&'a str, ParseError> {
        self.optional_text(field)?
            .ok_or_else(|| self.error(field, "it is missing"))
    }

    /// A routing key, or the name of an end of a binding: at most 255 bytes, maybe none.
    pub(super) fn short_text(&self, field: &str) -> Result<&'a str, ParseError> {
        let text = self.text(field)?;
        if text.len() > NAME_BYTES_MAX {
            let cause = format!("{} bytes, at most {NAME_BYTES_MAX} are taken", text.len());
            return Err(self.error(field, cause));
        }
        Ok(text)
    }

    /// As [`Item::short_text`]; what is left out is empty.
    pub(super) fn optional_short_text(&self, field: &str) -> Result<&'a str, ParseError> {
        match self.field(field) {
            Some(_) => self.short_text(field),
            None => Ok(""),
        }
    }

    /// A name that a client can say.
    pub(super) fn name(&self, field: &str) -> Result<&'a str, ParseError> {
        let name = self.short_text(field)?;
        if name.is_empty() {
            return Err(self.error(field, "it is empty"));
        }
        if name.contains(['\r', '\n']) {
            return Err(self.error(field, "it has a line break"));
        }
        Ok(name)
    }

    pub(super) fn flag(&self, field: &str, default: bool) -> Result<bool, ParseError> {
        match self.field(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.error(field, "it must be true or false")),
        }
    }

    pub(super) fn arguments(&self) -> Result<FieldTable, ParseError> {
        let Some(value) = self.field("arguments") else {
            return Ok(FieldTable::new());
        };
        values::table(value).map_err(|WrongValue { path, cause }| {
            let field = format!("arguments{path}");
            self.error(&field, cause)
        })
    }

    /// An array of tags, or one string with commas. In order, each once.
    pub(super) fn tags(&self) -> Result<Vec<String>, ParseError> {
        tags(self.field("tags")).map_err(|cause| self.error("tags", cause))
    }

    /// Limits by name: an object, a list of pairs, or a list of objects.
    pub(super) fn limits(&self) -> Result<Vec<(String, String)>, ParseError> {
        limits(self.field("limits")).map_err(|cause| self.error("limits", cause))
    }
}

/// See [`Item::tags`].
pub(super) fn tags(value: Option<&Value>) -> Result<Vec<String>, String> {
    let words: Vec<&str> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => text.split(',').take(TAGS_MAX + 1).collect(),
        Some(Value::Array(words)) => words
            .iter()
            .map(|word| word.as_str().ok_or("a tag must be a string"))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("it must be an array or a string".to_owned()),
    };
    if words.len() > TAGS_MAX {
        return Err(format!(
            "{} tags, at most {TAGS_MAX} are taken",
            words.len()
        ));
    }
    if let Some(long) = words.iter().find(|word| word.len() > NAME_BYTES_MAX) {
        return Err(format!(
            "a tag of {} bytes, at most {NAME_BYTES_MAX} are taken",
            long.len()
        ));
    }
    let words = words.into_iter().map(str::trim);
    let mut tags: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// See [`Item::limits`]. Values are as in the file: numbers, or numbers in strings.
pub(super) fn limits(value: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let printed = |(name, value): (&str, &Value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (name.to_owned(), value)
    };
    let mut limits: Vec<_> = match (values::pairs(value), value) {
        (Some(pairs), _) => pairs.into_iter().map(printed).collect(),
        (None, Value::Array(items)) if items.iter().all(Value::is_object) => items
            .iter()
            .filter_map(values::pairs)
            .flatten()
            .map(printed)
            .collect(),
        _ => return Err("it must be an object or an array".to_owned()),
    };
    limits.sort_unstable();
    Ok(limits)
}
