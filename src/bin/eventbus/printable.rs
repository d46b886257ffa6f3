//! Text of strangers, made fit for a terminal.
//!
//! A process chooses its own name. On its way to an operator it must not move the cursor, change colours, turn the direction
//! of the text around, hide behind characters of no width, or push the rest of the line away.

use std::fmt::Write as _;

/// Letters and symbols to Unicode, blanks to the eye: the fillers of Hangul, and the empty Braille pattern.
const BLANKS: [char; 5] = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}', '\u{2800}'];

/// `text` in at most `columns_max` characters, `…` at the end if it was cut. Each character that is not visible as itself is
/// written as an escape, `\u{202e}`; a backslash is written twice, so that an escape can't be forged.
pub(crate) fn printable(text: &str, columns_max: usize) -> String {
    let mut shown = String::new();
    let mut columns = 0;
    // Where to cut, so that there is room for the mark and no escape is cut in two.
    let mut cut = 0;
    for character in text.chars() {
        let before = shown.len();
        escape(character, &mut shown);
        columns += shown[before..].chars().count();
        if columns > columns_max {
            shown.truncate(cut);
            shown.push('…');
            break;
        }
        if columns < columns_max {
            cut = shown.len();
        }
    }
    shown
}

/// Adds ` name=text` to a line, each in at most `columns_max` characters, and in quotation marks if it could be taken for something else.
pub(crate) fn field(line: &mut String, name: &str, text: &str, columns_max: usize) {
    line.push(' ');
    value(line, name, columns_max);
    line.push('=');
    value(line, text, columns_max);
}

fn value(line: &mut String, text: &str, columns_max: usize) {
    let shown = printable(text, columns_max);
    let plain = |character: char| !matches!(character, ' ' | '"' | '=');
    if !shown.is_empty() && shown.chars().all(plain) {
        line.push_str(&shown);
    } else {
        write!(line, "\"{}\"", shown.replace('"', "\\\"")).expect("a string takes what is written to it");
    }
}

/// Several lines, such as a program makes for its user: what is not visible in them is an escape, but for their ends.
pub(crate) fn visible_lines(text: &str) -> String {
    let shown = text.chars().map(|character| match character {
        '\n' | '\\' => character.to_string(),
        _ => printable(&character.to_string(), usize::MAX),
    });
    shown.collect()
}

/// Whether a character stands for itself, and does nothing else.
pub(crate) fn is_visible(character: char) -> bool {
    let mut shown = String::new();
    escape(character, &mut shown);
    shown.chars().eq([character])
}

fn escape(character: char, shown: &mut String) {
    let written = match character {
        '\'' | '"' => write!(shown, "{character}"),
        _ if BLANKS.contains(&character) => write!(shown, "{}", character.escape_unicode()),
        // The standard library knows the categories: controls, formats (bidi and zero width among them), separators other
        // than the space, unassigned, private; and marks, which would join the character before.
        _ => write!(shown, "{}", character.escape_debug()),
    };
    written.expect("a string takes what is written to it");
}

#[cfg(test)]
mod tests {
    use super::{field, printable, visible_lines};

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["sshd: root@pts/0", "naïve 東京 --flag='a b' \"c\"", ""] {
            assert_eq!(printable(text, 80), text);
        }
    }

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let steering = (0..=0x10_ffff_u32).filter_map(char::from_u32).filter(|character| {
            character.is_control()
                || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
                || matches!(character, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}' | '\u{fff9}'..='\u{fffb}')
                || matches!(character, '\u{e0001}' | '\u{e0020}'..='\u{e007f}' | '\u{fe00}'..='\u{fe0f}')
                || matches!(character, '\u{180e}' | '\u{3164}' | '\u{2800}' | '\u{a0}' | '\u{3000}' | '\u{300}')
        });
        let mut tried = 0;
        for character in steering {
            let shown = printable(&format!("a{character}b"), 80);
            assert!(!shown.contains(character), "{:?} in {shown:?}", u32::from(character));
            assert!(shown.chars().all(|shown| shown.is_ascii_graphic()), "{shown:?}");
            tried += 1;
        }
        assert!(tried > 200, "only {tried}");
    }

    #[test]
    fn an_escape_is_legible_and_can_not_be_forged() {
        assert_eq!(printable("evil\u{1b}[2J", 80), r"evil\u{1b}[2J");
        assert_eq!(printable("\u{9b}31m\u{202e}gpj", 80), r"\u{9b}31m\u{202e}gpj");
        assert_eq!(printable(r"\u{1b}", 80), r"\\u{1b}");
        assert_eq!(printable("a\nb\tc\0", 80), r"a\nb\tc\0");
    }

    #[test]
    fn a_field_is_not_taken_for_another() {
        let mut line = String::new();
        field(&mut line, "name", "sh pid=1", 80);
        field(&mut line, "a b", "say \"x\" \u{1b}[2J\n", 80);
        field(&mut line, "empty", "", 80);
        assert_eq!(line, r#" name="sh pid=1" "a b"="say \"x\" \u{1b}[2J\n" empty="""#);
    }

    #[test]
    fn lines_stay_lines_and_steer_no_terminal() {
        assert_eq!(visible_lines("a\n  b \\ \u{1b}[2J\u{202e}\r\n"), "a\n  b \\ \\u{1b}[2J\\u{202e}\\r\n");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters_and_marked() {
        assert_eq!(printable("abcdef", 6), "abcdef");
        assert_eq!(printable("abcdefg", 6), "abcde…");
        assert_eq!(printable("abc\u{1b}def", 8), "abc…");
        assert_eq!(printable(&"\u{1b}".repeat(1_000_000), 20).chars().count(), 19);
        assert_eq!(printable("東京東京", 3), "東京…");
    }
}
