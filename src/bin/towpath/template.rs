//! A template: text with `{field}`s of a row in it. `{a.b}` is field `b` within field `a`; `{{` and `}}` are braces.

use std::borrow::Cow;
use std::str::FromStr;

/// A row whose fields have names.
pub(crate) trait Fields {
    /// A field as text. The error says what is wrong with it: not there, null, or not text, number or boolean.
    fn text(&self, path: &str) -> Result<Cow<'_, str>, String>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let (brace, behind) = rest[at..].split_at(1);
            if let Some(behind) = behind.strip_prefix(brace) {
                plain.push_str(brace);
                rest = behind;
                continue;
            }
            let (name, behind) = field_name(brace, behind)?;
            parts.extend([Part::Text(std::mem::take(&mut plain)), Part::Field(name.to_owned())]);
            rest = behind;
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        Ok(Self(parts))
    }
}

impl Template {
    /// The text for one row.
    pub(crate) fn fill(&self, row: &impl Fields) -> Result<String, String> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Field(path) => filled.push_str(&row.text(path)?),
            }
        }
        Ok(filled)
    }
}

fn field_name<'a>(brace: &str, behind: &'a str) -> Result<(&'a str, &'a str), String> {
    if brace == "}" {
        return Err("a } stands alone; }} is one in the text".to_owned());
    }
    match behind.split_once('}') {
        Some((name, rest)) if !name.is_empty() && !name.contains('{') => Ok((name, rest)),
        _ => Err("a { begins no {field}; {{ is one in the text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plane;

    impl Fields for Plane {
        fn text(&self, path: &str) -> Result<Cow<'_, str>, String> {
            match path {
                "tailnum" => Ok("N14228".into()),
                "at.origin" => Ok("EWR".into()),
                _ => Err(format!("no field {path}")),
            }
        }
    }

    fn filled(text: &str) -> Result<String, String> {
        text.parse::<Template>()?.fill(&Plane)
    }

    #[test]
    fn fields_stand_in_for_their_values() {
        assert_eq!(filled("plane-{tailnum}").unwrap(), "plane-N14228");
        assert_eq!(filled("{tailnum}{at.origin}").unwrap(), "N14228EWR");
        assert_eq!(filled("plain").unwrap(), "plain");
        assert_eq!(filled("").unwrap(), "");
    }

    #[test]
    fn doubled_braces_are_braces() {
        assert_eq!(filled("{{tailnum}}").unwrap(), "{tailnum}");
        assert_eq!(filled("{{{tailnum}}}").unwrap(), "{N14228}");
    }

    #[test]
    fn a_missing_field_is_told() {
        assert_eq!(filled("x-{carrier}").unwrap_err(), "no field carrier");
    }

    #[test]
    fn braces_that_do_not_fit_are_refused() {
        for text in ["{", "}", "{}", "a{b", "a}b", "{a{b}", "{tailnum}}"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }
}
