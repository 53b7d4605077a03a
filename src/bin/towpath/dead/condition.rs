//! The conditions of `--where`: a field, an operator and a value. Anything else is refused, and told how it should be.

use std::fmt;
use std::str::FromStr;

use towpath::{DeadLetter, Reason, Timestamp};

use crate::time;

/// Something that may hold of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Text { field: TextField, test: TextTest, value: String },
    Number { field: NumberField, test: OrderTest, value: u64 },
    Redriven(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextField {
    Reason,
    Error,
    Type,
    Stream,
    Tag,
}

/// Times are numbers of nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberField {
    Attempts,
    Number,
    Position,
    SourcePosition,
    FirstFailed,
    LastFailed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextTest {
    Is,
    IsNot,
    Has,
    HasNot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrderTest {
    Is,
    IsNot,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadCondition {
    NoOperator,
    UnknownField(String),
    /// The field does not go with this operator.
    Operator {
        field: &'static str,
        operators: &'static str,
    },
    Reason,
    Number(&'static str),
    Time {
        field: &'static str,
        why: String,
    },
    Truth,
}

const FIELDS: &str = "reason, error, type, stream, tag, attempts, number, position, source_position, first_failed, \
     last_failed or redriven";

/// Longer ones before those that they begin with.
const OPERATORS: [&str; 8] = ["!=", "!~", "<=", ">=", "=", "~", "<", ">"];

const REASONS: [Reason; 7] = [
    Reason::Attempts,
    Reason::Rejected,
    Reason::Undecodable,
    Reason::TooLarge,
    Reason::Expired,
    Reason::Damaged,
    Reason::Parked,
];

impl Condition {
    pub(crate) fn holds(&self, letter: &DeadLetter) -> bool {
        match self {
            Condition::Redriven(value) => letter.is_redriven() == *value,
            Condition::Number { field, test, value } => test.holds(field.of(letter), *value),
            Condition::Text { field, test, value } => {
                let (exactly, wanted) = test.parts();
                let is_so = |text: &str| if exactly { text == value } else { text.contains(value.as_str()) };
                field.any(letter, is_so) == wanted
            }
        }
    }
}

impl TextField {
    fn any(self, letter: &DeadLetter, is_so: impl Fn(&str) -> bool) -> bool {
        match self {
            TextField::Reason => is_so(letter.reason().as_str()),
            TextField::Error => is_so(letter.why()),
            TextField::Type => is_so(letter.event().type_name()),
            TextField::Stream => letter.source_stream().is_some_and(is_so),
            TextField::Tag => letter.event().tags().any(is_so),
        }
    }
}

impl NumberField {
    fn of(self, letter: &DeadLetter) -> u64 {
        match self {
            NumberField::Attempts => letter.attempts().into(),
            NumberField::Number => letter.number().get(),
            NumberField::Position => letter.event().position().get(),
            NumberField::SourcePosition => letter.source_position().get(),
            NumberField::FirstFailed => letter.first_failed().as_nanos(),
            NumberField::LastFailed => letter.last_failed().as_nanos(),
        }
    }

    fn parse(self, name: &'static str, value: &str) -> Result<u64, BadCondition> {
        match self {
            NumberField::FirstFailed | NumberField::LastFailed => time::parse_moment(value)
                .map(Timestamp::as_nanos)
                .map_err(|why| BadCondition::Time { field: name, why }),
            _ => value.parse().map_err(|_| BadCondition::Number(name)),
        }
    }
}

impl TextTest {
    /// Whether the whole text counts, and whether it is to be so.
    fn parts(self) -> (bool, bool) {
        match self {
            TextTest::Is => (true, true),
            TextTest::IsNot => (true, false),
            TextTest::Has => (false, true),
            TextTest::HasNot => (false, false),
        }
    }
}

impl OrderTest {
    fn holds(self, found: u64, value: u64) -> bool {
        match self {
            OrderTest::Is => found == value,
            OrderTest::IsNot => found != value,
            OrderTest::Less => found < value,
            OrderTest::AtMost => found <= value,
            OrderTest::More => found > value,
            OrderTest::AtLeast => found >= value,
        }
    }
}

impl FromStr for Condition {
    type Err = BadCondition;

    fn from_str(text: &str) -> Result<Self, BadCondition> {
        let (name, operator, value) = split(text).ok_or(BadCondition::NoOperator)?;
        match name {
            "reason" => reason(operator, value),
            "error" => self::text("error", TextField::Error, operator, value),
            "type" => self::text("type", TextField::Type, operator, value),
            "stream" => self::text("stream", TextField::Stream, operator, value),
            "tag" => self::text("tag", TextField::Tag, operator, value),
            "attempts" => number("attempts", NumberField::Attempts, operator, value),
            "number" => number("number", NumberField::Number, operator, value),
            "position" => number("position", NumberField::Position, operator, value),
            "source_position" => number("source_position", NumberField::SourcePosition, operator, value),
            "first_failed" => number("first_failed", NumberField::FirstFailed, operator, value),
            "last_failed" => number("last_failed", NumberField::LastFailed, operator, value),
            "redriven" => truth(operator, value),
            _ => Err(BadCondition::UnknownField(name.to_owned())),
        }
    }
}

/// What stands before the first operator, that, and what stands behind it. A value may have operators in it.
fn split(text: &str) -> Option<(&str, &'static str, &str)> {
    let at = text.find(['=', '!', '~', '<', '>'])?;
    let operator = OPERATORS.into_iter().find(|operator| text[at..].starts_with(operator))?;
    Some((text[..at].trim(), operator, text[at + operator.len()..].trim()))
}

fn text(name: &'static str, field: TextField, operator: &str, value: &str) -> Result<Condition, BadCondition> {
    let test = match operator {
        "=" => TextTest::Is,
        "!=" => TextTest::IsNot,
        "~" => TextTest::Has,
        "!~" => TextTest::HasNot,
        _ => return Err(BadCondition::Operator { field: name, operators: "=, !=, ~ and !~" }),
    };
    Ok(Condition::Text { field, test, value: value.to_owned() })
}

fn reason(operator: &str, value: &str) -> Result<Condition, BadCondition> {
    if !REASONS.iter().any(|reason| reason.as_str() == value) {
        return Err(BadCondition::Reason);
    }
    match operator {
        "=" | "!=" => text("reason", TextField::Reason, operator, value),
        _ => Err(BadCondition::Operator { field: "reason", operators: "= and !=" }),
    }
}

fn number(name: &'static str, field: NumberField, operator: &str, value: &str) -> Result<Condition, BadCondition> {
    let test = match operator {
        "=" => OrderTest::Is,
        "!=" => OrderTest::IsNot,
        "<" => OrderTest::Less,
        "<=" => OrderTest::AtMost,
        ">" => OrderTest::More,
        ">=" => OrderTest::AtLeast,
        _ => return Err(BadCondition::Operator { field: name, operators: "=, !=, <, <=, > and >=" }),
    };
    Ok(Condition::Number { field, test, value: field.parse(name, value)? })
}

fn truth(operator: &str, value: &str) -> Result<Condition, BadCondition> {
    let value = value.parse::<bool>().map_err(|_| BadCondition::Truth)?;
    match operator {
        "=" => Ok(Condition::Redriven(value)),
        "!=" => Ok(Condition::Redriven(!value)),
        _ => Err(BadCondition::Operator { field: "redriven", operators: "= and !=" }),
    }
}

impl fmt::Display for BadCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadCondition::NoOperator => write!(f, "it has no operator: = != ~ !~ < <= > or >="),
            BadCondition::UnknownField(name) => write!(f, "there is no field {name:?}, but {FIELDS}"),
            BadCondition::Operator { field, operators } => write!(f, "{field} goes with {operators}"),
            BadCondition::Reason => {
                let reasons: Vec<&str> = REASONS.iter().map(|reason| reason.as_str()).collect();
                write!(f, "a reason is one of: {}", reasons.join(", "))
            }
            BadCondition::Number(field) => write!(f, "{field} is a whole number"),
            BadCondition::Time { field, why } => write!(f, "{field} is a time, and of this one: {why}"),
            BadCondition::Truth => write!(f, "redriven is true or false"),
        }
    }
}

impl std::error::Error for BadCondition {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Condition, BadCondition> {
        text.parse()
    }

    #[test]
    fn a_condition_is_a_field_an_operator_and_a_value() {
        let is = |field, test, value: &str| Ok(Condition::Text { field, test, value: value.to_owned() });
        assert_eq!(parse("reason=rejected"), is(TextField::Reason, TextTest::Is, "rejected"));
        assert_eq!(parse("reason != too large"), is(TextField::Reason, TextTest::IsNot, "too large"));
        assert_eq!(parse("error~a=b <c>"), is(TextField::Error, TextTest::Has, "a=b <c>"));
        assert_eq!(parse("tag!~shop:"), is(TextField::Tag, TextTest::HasNot, "shop:"));
        assert_eq!(parse("type="), is(TextField::Type, TextTest::Is, ""));
        let at_least = Condition::Number { field: NumberField::Attempts, test: OrderTest::AtLeast, value: 3 };
        assert_eq!(parse("attempts>=3"), Ok(at_least));
        let before = Condition::Number { field: NumberField::LastFailed, test: OrderTest::Less, value: 0 };
        assert_eq!(parse("last_failed<1970-01-01"), Ok(before));
        assert_eq!(parse("redriven!=true"), Ok(Condition::Redriven(false)));
    }

    #[test]
    fn what_is_no_condition_is_told_apart() {
        for text in ["", "reason", "rejected", "!", "attempts!3"] {
            assert_eq!(parse(text), Err(BadCondition::NoOperator), "{text}");
        }
        assert_eq!(parse("colour=red"), Err(BadCondition::UnknownField("colour".to_owned())));
        assert_eq!(parse("=red"), Err(BadCondition::UnknownField(String::new())));
        assert_eq!(parse("reason=tired"), Err(BadCondition::Reason));
        assert!(matches!(parse("reason~rejected"), Err(BadCondition::Operator { field: "reason", .. })));
        assert!(matches!(parse("type>a"), Err(BadCondition::Operator { field: "type", .. })));
        assert!(matches!(parse("attempts~3"), Err(BadCondition::Operator { field: "attempts", .. })));
        assert!(matches!(parse("redriven<true"), Err(BadCondition::Operator { field: "redriven", .. })));
        assert_eq!(parse("redriven=perhaps"), Err(BadCondition::Truth));
        for text in ["attempts=", "attempts=-1", "number=1.5", "position=18446744073709551616", "attempts==3"] {
            assert!(matches!(parse(text), Err(BadCondition::Number(_))), "{text}");
        }
        assert!(matches!(parse("first_failed=yesterday"), Err(BadCondition::Time { field: "first_failed", .. })));
    }

    #[test]
    fn every_operator_of_order_says_what_it_means() {
        use OrderTest::{AtLeast, AtMost, Is, IsNot, Less, More};
        let holds = |found| [Is, IsNot, Less, AtMost, More, AtLeast].map(|test| test.holds(found, 3));
        assert_eq!(holds(2), [false, true, true, true, false, false]);
        assert_eq!(holds(3), [true, false, false, true, false, true]);
        assert_eq!(holds(4), [false, true, false, false, true, true]);
    }
}
