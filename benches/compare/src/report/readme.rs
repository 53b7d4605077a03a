//! The part of a text between two marks.

use anyhow::{Result, ensure};

const BEGIN: &str = "<!-- compare -->";
const END: &str = "<!-- /compare -->";

/// The text with something else between its marks.
pub fn replace(text: &str, part: &str) -> Result<String> {
    let begin = text.find(BEGIN).map(|begin| begin + BEGIN.len());
    let end = text.find(END);
    let places = begin.zip(end).filter(|(begin, end)| begin <= end);
    ensure!(places.is_some(), "there is no {BEGIN} with a {END} behind it");
    let (begin, end) = places.unwrap_or_default();
    Ok(format!("{}\n\n{}\n\n{}", &text[..begin], part.trim(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_the_marks_is_replaced_and_nothing_else() {
        let text = "# A\n\n<!-- compare -->\nold\n<!-- /compare -->\n\n## B\n";
        let once = replace(text, "new\n").unwrap();
        assert_eq!(once, "# A\n\n<!-- compare -->\n\nnew\n\n<!-- /compare -->\n\n## B\n");
        assert_eq!(replace(&once, "new").unwrap(), once);
        assert!(replace("no marks", "new").is_err());
        assert!(replace("<!-- /compare --> <!-- compare -->", "new").is_err());
    }
}
