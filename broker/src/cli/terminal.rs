//! What came from outside, made fit for a terminal.
//!
//! Client ids, topics, names and the like are what strangers chose. A control character in one could move the cursor,
//! set the title or begin a line of its own; a bidirectional mark could show it in another order than it has.

use std::fmt::Write as _;

/// `text` with what a terminal would obey, or would not show, written as `\n`, `\x1b` or `\u{202e}`.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !is_hidden(c) {
            out.push(c);
            continue;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{7f}' => write!(out, "\\x{:02x}", u32::from(c)).expect("a string takes all"),
            other => write!(out, "\\u{{{:x}}}", u32::from(other)).expect("a string takes all"),
        }
    }
    out
}

/// [`printable`], with its lines kept.
pub(super) fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n")
}

/// JSON that says the same with what [`printable`] would escape as `\u…`. Outside of strings JSON has none of it.
pub(super) fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(out, "\\u{unit:04x}").expect("a string takes all");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Controls (Cc), and the format characters (Cf) that reorder or hide text; line and paragraph separators.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (text, shown) in [
            ("a\nERROR forged", r"a\nERROR forged"),
            ("\u{1b}]0;owned\u{7}", r"\x1b]0;owned\x07"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("a\u{202e}b\u{2066}", r"a\u{202e}b\u{2066}"),
            ("tab\there\r\u{7f}", r"tab\there\r\x7f"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn letters_of_all_scripts_stay_as_they_are() {
        for text in ["Käpylä", "Дом", "東京/駅", "हिन्दी", "🚚", "a\\b\"c"] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn escaped_json_says_the_same() {
        let value = serde_json::json!({"name": "\u{9b}\u{202e}\u{e0041}\u{7f}\n é"});
        let text = printable_json(&value.to_string());
        assert!(!text.chars().any(is_hidden), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
