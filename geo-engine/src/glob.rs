//! Patterns for device names: `*` is any run of characters, `?` is one.

/// Whether `text` is what `pattern` describes. Linear but for the last `*`, which is tried at each place.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // Where to go on after a mismatch: behind the last `*`, with one more character given to it.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        match (pattern.next(), text.clone().next()) {
            (Some('*'), _) => retry = Some((pattern.clone(), text.clone())),
            (Some('?'), Some(_)) => _ = text.next(),
            (Some(wanted), Some(found)) if wanted == found => _ = text.next(),
            (None, None) => return true,
            _ => {
                let Some((after_star, mut rest)) = retry.take() else {
                    return false;
                };
                if rest.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                text = rest.clone();
                retry = Some((after_star, rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text) in [
            ("truck-*", "truck-7"),
            ("*", ""),
            ("a?c", "abc"),
            ("*-bus-*7", "atx-bus-77"),
            ("é?", "éü"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("truck-*", "truc"),
            ("a?c", "ac"),
            ("*7", "atx-8"),
            ("", "x"),
            ("abc", "ab"),
            ("a*b", "acbx"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
